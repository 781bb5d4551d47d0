// Tables that can be sorted, filtered and paged; for several models joined by their key column.

import { modelChip } from "./data.js";
import { button, cellNode, cellText, details, isUnit, make, named, paged } from "./dom.js";
import { beginning, formatDifference, integer, numeric, plural, shorten } from "./text.js";

const NUMERIC_KINDS = new Set(["integer", "number", "percent", "scientific"]);
export const FILTER_FROM = 15;
const PAGED_FROM = 200;
const PAGE_ROWS = 100;
const FOLDED_FROM = 30;
const SHORT_TEXT = 18;

/**
 * columns: [{ heads: [text or node], kind, description, group }]; rows: arrays of cells. `cell(row, place)` may override.
 * @param {TableColumn[]} columns
 * @param {Row[]} rows
 * @param {TableOptions} [options]
 */
export function dataTable(columns, rows, options = {}) {
  const state = { place: -1, descending: false, words: "" };
  const cell = options.cell ?? ((row, place) => cellNode(row[place], columns[place].kind));
  const body = make("div", { class: "table-body" });
  const count = make("span", { class: "where", "aria-live": "polite" });
  /** @type {Map<Row, string>} */
  const texts = new Map();
  const textOf = (/** @type {Row} */ row) => {
    const text = texts.get(row) ?? row.map(cellText).join(" ").toLowerCase();
    texts.set(row, text);
    return text;
  };
  const headRow = () => {
    const cells = columns.map((column, place) => {
      const sorted = state.place === place;
      const order = sorted ? (state.descending ? "descending" : "ascending") : null;
      const sorter = button(
        [
          column.head,
          make("span", { class: "order", "aria-hidden": "true" }, sorted ? (state.descending ? " ↓" : " ↑") : ""),
        ],
        "head",
        () => {
          const numbers = NUMERIC_KINDS.has(column.kind);
          state.descending = sorted ? !state.descending : numbers;
          state.place = place;
          show();
        },
        { title: column.description ? beginning(column.description, 2000) : null },
      );
      return make(
        "th",
        { scope: "col", class: NUMERIC_KINDS.has(column.kind) ? "numeric" : null, "aria-sort": order },
        sorter,
      );
    });
    return make("tr", null, cells);
  };
  const draw = (/** @type {any[]} */ shown) =>
    make(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": shorten(options.label || "table", 200) },
      make(
        "table",
        { class: options.className ?? null },
        make("thead", null, options.groupRow ? options.groupRow() : null, headRow()),
        make(
          "tbody",
          null,
          shown.map((/** @type {Row} */ row) =>
            make(
              "tr",
              { class: options.rowClass?.(row) ?? null },
              columns.map((column, place) =>
                make(
                  place === options.key ? "th" : "td",
                  {
                    class: NUMERIC_KINDS.has(column.kind)
                      ? "numeric"
                      : typeof row[place] === "string"
                        ? row[place].length <= SHORT_TEXT
                          ? "short"
                          : "long"
                        : null,
                    scope: place === options.key ? "row" : null,
                  },
                  cell(row, place),
                ),
              ),
            ),
          ),
        ),
      ),
    );
  const show = () => {
    const wanted = state.words.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = wanted.length ? rows.filter((row) => wanted.every((word) => textOf(row).includes(word))) : rows;
    if (state.place >= 0) shown = sortedRows(shown, (row) => row[state.place], state.descending);
    count.textContent = wanted.length
      ? `${integer(shown.length)} of ${integer(rows.length)}`
      : plural(rows.length, "row");
    body.replaceChildren(
      shown.length || !rows.length
        ? paged(shown, shown.length > PAGED_FROM ? PAGE_ROWS : PAGED_FROM, draw, "rows")
        : make("p", { class: "quiet-text" }, "No row holds these words."),
    );
  };
  const node = make("div", { class: "data-table" });
  if (rows.length > FILTER_FROM) {
    node.append(
      make(
        "div",
        { class: "controls" },
        filterBox((words) => {
          state.words = words;
          show();
        }, "Filter rows"),
        count,
      ),
    );
  }
  node.append(body);
  show();
  return node;
}

/**
 * @param {(words: string) => void} change
 * @param {string} label
 */
export function filterBox(change, label) {
  const box = make("input", {
    type: "search",
    placeholder: label,
    "aria-label": label,
    autocomplete: "off",
    spellcheck: "false",
  });
  box.addEventListener("input", () => change(box.value));
  return box;
}

/**
 * Numbers before text; what is missing or no number goes last in either order.
 * @template T
 * @param {T[]} rows
 * @param {(row: T) => any} value
 * @param {boolean} descending
 */
export function sortedRows(rows, value, descending) {
  const keyed = rows.map((row, place) => {
    const given = value(row);
    const number = typeof given === "boolean" ? Number(given) : numeric(given);
    const empty = given === null || given === undefined || Number.isNaN(number);
    return { row, place, empty, number: empty ? null : number, text: number === null && !empty ? sortText(given) : "" };
  });
  keyed.sort((one, other) => {
    if (one.empty !== other.empty) return one.empty ? 1 : -1;
    let order;
    if (one.number !== null && other.number !== null) order = one.number - other.number;
    else if ((one.number === null) !== (other.number === null)) order = one.number === null ? 1 : -1;
    else order = one.text < other.text ? -1 : Number(one.text > other.text);
    return (descending ? -order : order) || one.place - other.place;
  });
  return keyed.map((entry) => entry.row);
}

/** @param {any} value */
function sortText(value) {
  if (isUnit(value)) return `${value.layer}\u0000${String(value.index).padStart(12, "0")}`;
  return String(value).toLowerCase();
}

/** @param {Group<Table>} group */
export function tableFinding(group) {
  const [first] = group.entries;
  const draw = () =>
    group.entries.length === 1
      ? singleTable(first.finding)
      : (joinTables(group.entries) ?? stackedTable(group.entries));
  const rows = Math.max(...group.entries.map(({ finding }) => finding.rows.length));
  return rows > FOLDED_FROM ? details(`Show the table of ${plural(rows, "row")}`, "method", draw) : draw();
}

/** @param {Table} table */
function singleTable(table) {
  const columns = table.columns.map((column) => ({
    head: named(column.name, 80),
    kind: column.kind,
    description: column.description,
  }));
  return dataTable(columns, table.rows, { label: table.title, key: table.key });
}

/** @param {Entry<Table>[]} entries */
function sameColumns(entries) {
  const heads = entries.map((entry) =>
    JSON.stringify(entry.finding.columns.map((column) => [column.name, column.kind])),
  );
  return heads.every((head) => head === heads[0]);
}

/**
 * One row for each key, the models' values beside each other; null if the rows are about different things.
 * @param {Entry<Table>[]} entries
 */
function joinTables(entries) {
  if (!sameColumns(entries)) return null;
  const { columns, key } = entries[0].finding;
  if (!(key >= 0 && key < columns.length)) return null;
  const tables = entries.map(({ finding }) => new Map(finding.rows.map((row) => [JSON.stringify(row[key]), row])));
  if (tables.some((table, place) => table.size !== entries[place].finding.rows.length)) return null;
  const keys = new Set(tables.flatMap((table) => [...table.keys()]));
  const shared = [...keys].filter((name) => tables.every((table) => table.has(name))).length;
  if (shared < Math.min(...tables.map((table) => table.size)) / 2) return null;
  const others = columns.map((column, place) => ({ column, place })).filter(({ place }) => place !== key);
  const two = entries.length === 2;
  /** @type {TableColumn[]} */
  const shown = [
    { head: named(columns[key].name, 80), kind: columns[key].kind, description: columns[key].description },
  ];
  /** @type {{ column: Column, span: number }[]} */
  const spans = [];
  for (const { column } of others) {
    const difference = two && NUMERIC_KINDS.has(column.kind);
    for (const { model } of entries) {
      shown.push({ head: modelChip(model), kind: column.kind, description: column.description });
    }
    if (difference) {
      shown.push({ head: "difference", kind: column.kind, description: "second model minus first", difference: true });
    }
    spans.push({ column, span: entries.length + Number(difference) });
  }
  const rows = [...keys].map((name) => {
    const found = tables.map((table) => table.get(name));
    const row = [found.find(Boolean)?.[key]];
    for (const { column, place } of others) {
      const values = found.map((part) => (part ? part[place] : null));
      row.push(...values);
      if (two && NUMERIC_KINDS.has(column.kind)) {
        const [before, after] = values.map((value) => numeric(value));
        row.push(before === null || after === null ? null : after - before);
      }
    }
    return row;
  });
  const groupRow = () =>
    make(
      "tr",
      { class: "group-row" },
      make("td"),
      spans.map(({ column, span }) => {
        return make("th", { scope: "colgroup", colspan: span }, named(column.name, 80));
      }),
    );
  const cell = (/** @type {Row} */ row, /** @type {number} */ place) =>
    shown[place].difference && row[place] !== null
      ? formatDifference(row[place], shown[place].kind)
      : cellNode(row[place], shown[place].kind);
  return dataTable(shown, rows, { label: entries[0].finding.title, key: 0, groupRow, cell, className: "joined" });
}

/** @param {Entry<Table>[]} entries */
function stackedTable(entries) {
  if (!sameColumns(entries)) {
    return entries.map(({ model, finding }) =>
      make("div", { class: "by-model" }, modelHeading(model), singleTable(finding)),
    );
  }
  const { columns, title, key } = entries[0].finding;
  const shown = [
    { head: "model", kind: "text" },
    ...columns.map((column) => ({ head: named(column.name, 80), kind: column.kind, description: column.description })),
  ];
  const rows = entries.flatMap(({ model, finding }) => finding.rows.map((row) => [model, ...row]));
  const cell = (/** @type {Row} */ row, /** @type {number} */ place) =>
    place === 0 ? modelChip(row[0]) : cellNode(row[place], shown[place].kind);
  return dataTable(shown, rows, { label: title, key: key + 1, cell });
}

/** @param {string} alias */
export function modelHeading(alias) {
  return make("h5", { class: "model-heading" }, modelChip(alias));
}

/**
 * @param {[string, Cell][]} facts
 * @param {string} [className]
 */
export function factList(facts, className = "facts") {
  if (!facts.length) return null;
  return make(
    "dl",
    { class: className },
    facts.map(([name, value]) =>
      make(
        "div",
        null,
        make("dt", null, named(name, 60)),
        make("dd", { class: numeric(value) === null ? null : "number" }, cellNode(value)),
      ),
    ),
  );
}
