// Grids of tiles and matrices of pictures.

import { sparkline } from "./charts.js";
import { alike, modelChip, numbered } from "./data.js";
import { button, cellText, link, make, named, paged, prose, route } from "./dom.js";
import { pictureNode, sizeControl } from "./pictures.js";
import { factList, FILTER_FROM, filterBox, modelHeading, sortedRows } from "./tables.js";
import { beginning, integer, numeric, plural, shorten } from "./text.js";

const PAGE_TILES = 120;
const PAGE_MATRIX_ROWS = 20;
// A matrix with more columns begins with some of them, spread from the first to the last.
const MOST_COLUMNS = 9;
const SPREAD_COLUMNS = 7;
const SHEET_WIDTH = 720;

/**
 * @param {Tile} tile
 * @param {{ model?: string }} [options]
 */
export function tileBody(tile, options = {}) {
  const label = options.model ? `${tile.title} · ${options.model}` : tile.title;
  const pictures = tile.pictures.map((picture, place) => {
    const caption = tile.captions[place];
    return make(
      "figure",
      null,
      pictureNode(picture, caption ? `${label} · ${caption}` : label),
      caption ? make("figcaption", null, named(caption, 160)) : null,
    );
  });
  return [
    pictures.length ? make("div", { class: `tile-pictures count-${Math.min(pictures.length, 4)}` }, pictures) : null,
    tile.curve.length > 1 ? sparkline(tile.curve, tile.curve_title, options.model) : null,
    factList(tile.facts),
  ];
}

/** @param {Tile} tile */
function tileTitle(tile) {
  return make(
    "h5",
    { class: "tile-title" },
    tile.unit ? link(route("unit", tile.unit.layer, tile.unit.index), named(tile.title, 70)) : named(tile.title, 70),
  );
}

/**
 * One card for each title; for several models a column for each. Where most titles belong to one model alone (each
 * has its own best units), a card holds the models' first tiles, the next their second ones, and so on.
 * @param {Entry<TileGrid>[]} entries
 * @returns {Card[]}
 */
function tileCards(entries) {
  if (entries.length === 1) return entries[0].finding.tiles.map((tile) => [{ model: "", tile }]);
  const titles = entries.map(({ finding }) => new Set(finding.tiles.map((tile) => tile.title)));
  const shared = [...titles[0]].filter((title) => titles.every((others) => others.has(title))).length;
  if (shared < Math.min(...titles.map((others) => others.size)) / 2) {
    const longest = Math.max(...entries.map(({ finding }) => finding.tiles.length));
    return Array.from({ length: longest }, (_, place) =>
      entries
        .filter(({ finding }) => finding.tiles[place])
        .map(({ model, finding }) => ({ model, tile: finding.tiles[place], apart: true })),
    );
  }
  const found = entries.flatMap(({ model, finding }) =>
    numbered(finding.tiles, (tile) => tile.title).map(({ item, key }) => ({ model, tile: item, key })),
  );
  return alike(found, ({ key }) => key);
}

/**
 * @param {Card} card
 * @param {string[]} models
 * @param {boolean} untitled
 */
function tileCard(card, models, untitled) {
  const { tile, apart } = card[0];
  if (models.length < 2) return make("article", { class: "tile" }, untitled ? null : tileTitle(tile), tileBody(tile));
  const columns = models.map((model) => {
    const found = card.find((entry) => entry.model === model);
    return make(
      "div",
      { class: "tile-model" },
      modelChip(model),
      found && apart ? tileTitle(found.tile) : null,
      found
        ? tileBody(found.tile, { model })
        : make("p", { class: "quiet-text" }, apart ? "no more" : "not in this model"),
    );
  });
  return make(
    "article",
    { class: "tile wide" },
    untitled || apart ? null : tileTitle(tile),
    make("div", { class: "tile-models" }, columns),
  );
}

/** @param {Group<TileGrid>} group */
export function gridFinding(group) {
  const models = group.entries.length > 1 ? group.entries.map((entry) => entry.model) : [];
  const cards = tileCards(group.entries);
  const { finding } = group.entries[0];
  const most = Math.max(1, ...cards.slice(0, 50).flatMap((card) => card.map(({ tile }) => tile.pictures.length)));
  // A single picture without facts, as of all kernels at once, is shown as large as the text is wide.
  const sheet = cards.length === 1 && most === 1 && cards[0].every(({ tile }) => !tile.facts.length && !tile.unit);
  const width = sheet ? SHEET_WIDTH : pictureWidth(finding, cards);
  const columns = most === 5 ? most : Math.min(most, 4); // of five a single one would stand in the second row
  const withFacts = cards.some((card) => card[0].tile.facts.length);
  const grid = make("div", {
    class: `tile-grid${sheet ? " sheet" : ""}${withFacts ? " with-facts" : ""}${most > 2 ? " rows" : ""}`,
    "data-gallery": "",
  });
  grid.style.setProperty("--picture", `${width}px`);
  grid.style.setProperty("--columns", String(columns));
  grid.style.setProperty("--models", String(Math.max(1, models.length)));
  const state = { words: "", fact: "", descending: true };
  // As many lines of tiles as fill about two screens.
  const line = Math.max(
    1,
    Math.floor(1080 / (Math.max(withFacts ? 158 : 118, (width + 8) * columns + 14) * Math.max(1, models.length))),
  );
  const tall = width * 1.3 + (withFacts && columns < 3 ? 140 : 70);
  const size = Math.min(PAGE_TILES, Math.max(6, line * Math.max(2, Math.round(1600 / tall))));
  const count = make("span", { class: "where", "aria-live": "polite" });
  const show = () => {
    const wanted = state.words.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = wanted.length ? cards.filter((card) => wanted.every((word) => cardText(card).includes(word))) : cards;
    if (state.fact) shown = sortedRows(shown, (card) => cardFact(card, state.fact), state.descending);
    count.textContent = wanted.length
      ? `${integer(shown.length)} of ${integer(cards.length)}`
      : plural(cards.length, "tile");
    grid.replaceChildren(
      shown.length
        ? paged(
            shown,
            size,
            (part) =>
              make(
                "div",
                { class: "tiles" },
                part.map((card) => tileCard(card, models, sheet)),
              ),
            "tiles",
          )
        : make("p", { class: "quiet-text" }, "No tile holds these words."),
    );
  };
  const controls = make("div", { class: "controls" });
  if (cards.length > FILTER_FROM) {
    controls.append(
      filterBox((words) => {
        state.words = words;
        show();
      }, "Filter tiles"),
    );
  }
  const facts = sortableFacts(cards);
  if (cards.length > 5 && facts.length) {
    controls.append(
      sortControl(facts, (fact, descending) => {
        Object.assign(state, { fact, descending });
        show();
      }),
    );
  }
  if (cards.length > 3) controls.append(sizeControl(grid));
  if (cards.length > FILTER_FROM) controls.append(count);
  show();
  if (!models.length || cards[0]?.[0].apart !== true) return [controls.childElementCount ? controls : null, grid];
  return [
    make(
      "p",
      { class: "quiet-text" },
      "Most of these tiles are of one model alone, so they stand side by side in each model's own order.",
    ),
    controls.childElementCount ? controls : null,
    grid,
  ];
}

/**
 * @param {TileGrid} finding
 * @param {Card[]} cards
 */
function pictureWidth(finding, cards) {
  if (finding.tile_size > 0) return Math.max(32, Math.min(512, finding.tile_size));
  const [picture] = cards.slice(0, 20).flatMap((card) => card.flatMap(({ tile }) => tile.pictures));
  return picture && picture.width ? Math.max(72, Math.min(192, picture.width)) : 128;
}

const cardTexts = new WeakMap();

/** @param {Card} card */
function cardText(card) {
  if (!cardTexts.has(card)) {
    const words = card.flatMap(({ tile }) => [
      tile.title,
      ...tile.facts.flatMap(([name, value]) => [name, cellText(value)]),
      ...tile.captions,
    ]);
    cardTexts.set(
      card,
      words
        .map((word) => shorten(word, 400))
        .join(" ")
        .toLowerCase(),
    );
  }
  return cardTexts.get(card);
}

/**
 * @param {Card} card
 * @param {string} fact
 */
function cardFact(card, fact) {
  for (const { tile } of card) {
    const found = tile.facts.find(([name]) => name === fact);
    if (found) return sortable(found[1]) ?? found[1];
  }
  return null;
}

/**
 * A number, also one that an analysis wrote out as a percentage.
 * @param {Cell} value
 */
function sortable(value) {
  const percent = typeof value === "string" ? /^([<>]?)([-−]?\d+(?:\.\d+)?)\s?%$/.exec(value) : null;
  if (!percent) return numeric(value);
  const found = Number(percent[2].replace("−", "-"));
  const middle = percent[1] === "<" ? found / 2 : percent[1] === ">" ? (found + 100) / 2 : found;
  return middle / 100;
}

/** @param {Card[]} cards */
function sortableFacts(cards) {
  /** @type {Map<string, number>} */
  const names = new Map();
  for (const card of cards.slice(0, 200)) {
    for (const { tile } of card) {
      for (const [name, value] of tile.facts) if (sortable(value) !== null) names.set(name, (names.get(name) ?? 0) + 1);
    }
  }
  return [...names.keys()].slice(0, 12);
}

/**
 * @param {string[]} facts
 * @param {(fact: string, descending: boolean) => void} change
 */
function sortControl(facts, change) {
  const choice = make(
    "select",
    { "aria-label": "Order of the tiles" },
    make("option", { value: "" }, "in order"),
    facts.flatMap((fact, number) => [
      make("option", { value: `${number} down` }, `${shorten(fact, 40)}, highest first`),
      make("option", { value: `${number} up` }, `${shorten(fact, 40)}, lowest first`),
    ]),
  );
  choice.addEventListener("change", () => {
    const [number, direction] = choice.value.split(" ");
    change(choice.value ? facts[Number(number)] : "", direction === "down");
  });
  return choice;
}

/** @param {Group<PictureMatrix>} group */
export function matrixFinding(group) {
  const heads = group.entries.map(({ finding }) => JSON.stringify(finding.columns));
  if (group.entries.length > 1 && !heads.every((head) => head === heads[0])) {
    return group.entries.map(({ model, finding }) =>
      make(
        "div",
        { class: "by-model" },
        modelHeading(model),
        matrixNode(
          finding.columns,
          finding.rows.map((row) => ({ model, row })),
          finding,
          false,
        ),
      ),
    );
  }
  const { finding } = group.entries[0];
  const lines = group.entries.flatMap(({ model, finding: { rows } }) => rows.map((row) => ({ model, row })));
  const sorted = alike(lines, ({ row }) => row.title).flat();
  return matrixNode(finding.columns, sorted, finding, group.entries.length > 1);
}

/**
 * @param {string[]} columns
 * @param {MatrixLine[]} rows
 * @param {{ title: string, scale: string }} finding
 * @param {boolean} byModel
 */
export function matrixNode(columns, rows, finding, byModel) {
  const many = columns.length > MOST_COLUMNS;
  const all = columns.map((_, place) => place);
  const some = Array.from({ length: SPREAD_COLUMNS }, (_, step) =>
    Math.round((step * (columns.length - 1)) / (SPREAD_COLUMNS - 1)),
  );
  let wanted = many ? some : all;
  const bare = rows.every(({ row }) => !row.facts.length);
  const frameNode = make("div", {
    class: `matrix${columns.length < 5 ? " few" : ""}${bare ? " bare" : ""}`,
    "data-gallery": "",
  });
  const head = () =>
    make(
      "tr",
      null,
      make("th", { scope: "col", class: "lead" }, make("span", { class: "unseen" }, "picture")),
      wanted.map((place) =>
        make(
          "th",
          { scope: "col" },
          many ? make("span", { class: "ordinal" }, `${place + 1} of ${columns.length}`) : null,
          named(columns[place], 40),
        ),
      ),
    );
  /**
   * @param {MatrixLine} line
   * @param {number} place
   * @param {MatrixLine[]} shown
   */
  const line = ({ model, row }, place, shown) => {
    const again = byModel && place > 0 && shown[place - 1].row.title === row.title;
    const cells = wanted.map((number) => {
      const column = columns[number];
      const cell = row.cells[number];
      if (!cell || !cell.length) {
        return make("td", { class: "empty" }, make("span", { "aria-label": "no picture" }, "–"));
      }
      const label = [row.title, column, byModel ? model : ""].filter(Boolean).join(" · ");
      return make(
        "td",
        null,
        cell.map((/** @type {Picture} */ picture) => pictureNode(picture, label)),
      );
    });
    return make(
      "tr",
      { class: again ? "again" : null },
      make(
        "th",
        { scope: "row", class: "lead" },
        again
          ? null
          : [
              row.lead ? pictureNode(row.lead, row.title) : null,
              make("div", { class: "row-title" }, named(row.title, 80)),
            ],
        byModel ? modelChip(model) : null,
        factList(row.facts),
      ),
      cells,
    );
  };
  const draw = (/** @type {MatrixLine[]} */ shown) =>
    make(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": shorten(finding.title, 200) },
      make("table", null, make("thead", null, head()), make("tbody", null, shown.map(line))),
    );
  const show = () => frameNode.replaceChildren(paged(rows, PAGE_MATRIX_ROWS, draw, "rows"));
  const choices = many
    ? make(
        "div",
        { class: "sizes", role: "group", "aria-label": "Columns to show" },
        [some, all].map((list) =>
          button(
            list === some ? `${some.length} from first to last` : `all ${integer(columns.length)} columns`,
            "quiet",
            (event) => {
              wanted = list;
              const chosen = /** @type {Element} */ (event.currentTarget);
              for (const choice of chosen.parentElement?.children ?? []) {
                choice.setAttribute("aria-pressed", String(choice === chosen));
              }
              show();
            },
            { "aria-pressed": String(list === wanted) },
          ),
        ),
      )
    : null;
  show();
  return make(
    "div",
    null,
    make("div", { class: "controls" }, choices, sizeControl(frameNode)),
    frameNode,
    finding.scale ? make("p", { class: "scale" }, "Colours: ", prose(beginning(finding.scale, 2000))) : null,
  );
}
