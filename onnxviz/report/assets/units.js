// The page of one unit: everything that any analysis says about it, all models side by side.

import { alike, modelChip, run, several } from "./data.js";
import { addTo, button, cellNode, details, isUnit, link, make, named, route } from "./dom.js";
import { factList, modelHeading } from "./tables.js";
import { integer } from "./text.js";
import { tileBody } from "./tiles.js";

/** @type {Map<string, UnitPlaces> | null} */
let unitPlaces = null;

/**
 * @param {string} layer
 * @param {number} index
 */
function unitKey(layer, index) {
  return route("unit", layer, index);
}

/**
 * address -> { layer, index, tiles: [...], rows: [...] }; built when the first unit is asked for.
 * @returns {Map<string, UnitPlaces>}
 */
function unitIndex() {
  if (unitPlaces) return unitPlaces;
  /** @type {Map<string, UnitPlaces>} */
  const found = new Map();
  const entry = (/** @type {Unit} */ unit) => {
    const key = unitKey(unit.layer, unit.index);
    const known = found.get(key) ?? { layer: unit.layer, index: unit.index, tiles: [], rows: [] };
    found.set(key, known);
    return known;
  };
  for (const analysis of run.analyses) {
    for (const part of analysis.parts) {
      for (const finding of part.findings) {
        if (finding.type === "TileGrid") indexTiles(analysis, part.model, finding, entry);
        if (finding.type === "Table") {
          for (const row of finding.rows) {
            for (const value of row) {
              if (isUnit(value)) entry(value).rows.push({ analysis, model: part.model, finding, row });
            }
          }
        }
      }
    }
  }
  unitPlaces = found;
  return found;
}

/**
 * @param {AnalysisResult} analysis
 * @param {string} model
 * @param {TileGrid} finding
 * @param {(unit: Unit) => UnitPlaces} entry
 */
function indexTiles(analysis, model, finding, entry) {
  for (const tile of finding.tiles) {
    if (tile.unit) entry(tile.unit).tiles.push({ analysis, model, finding, tile });
    for (const [, value] of tile.facts) {
      if (isUnit(value) && !(tile.unit && tile.unit.layer === value.layer && tile.unit.index === value.index)) {
        entry(value).tiles.push({ analysis, model, finding, tile });
      }
    }
  }
}

/**
 * @param {string} layer
 * @param {number} index
 */
export function unitPage(layer, index) {
  const found = unitIndex().get(unitKey(layer, index));
  const heading = make("h1", { tabindex: "-1" }, named(layer, 120), ` : ${index}`);
  const back = button("← Back to the report", "quiet back", () => {
    location.hash = "#/";
  });
  const page = make(
    "article",
    { class: "unit-page" },
    back,
    make("p", { class: "eyebrow" }, "unit"),
    heading,
    String(layer).length > 120
      ? details("Whole name", "method", () => make("p", { class: "whole-name" }, layer))
      : null,
  );
  const facts = run.models.flatMap((model) =>
    model.layers.filter((row) => row.name === layer).map((row) => ({ model, row })),
  );
  for (const { model, row } of facts) {
    addTo(page, [
      several ? modelHeading(model.alias) : null,
      factList(
        [
          ["operator", row.operator],
          ["shape", row.shape.map((size) => size ?? "any").join(" × ")],
          ["units", row.units],
          ["receptive field", row.receptive_field ? `${row.receptive_field.join(" × ")} pixels` : "whole image"],
        ],
        "facts wide-facts",
      ),
    ]);
  }
  if (!found) {
    addTo(page, [make("p", { class: "nothing" }, "No analysis of this run says anything about this unit.")]);
    return page;
  }
  addTo(page, [neighbours(found)]);
  for (const analysis of run.analyses) addTo(page, [unitSection(analysis, found)]);
  return page;
}

/** @param {UnitPlaces} found */
function neighbours(found) {
  const known = [...unitIndex().values()]
    .filter((entry) => entry.layer === found.layer)
    .sort((one, other) => one.index - other.index);
  const place = known.indexOf(found);
  const step = (/** @type {UnitPlaces | undefined} */ entry, /** @type {(index: number) => string} */ label) =>
    entry ? link(unitKey(entry.layer, entry.index), label(entry.index)) : make("span");
  return known.length > 1
    ? make(
        "nav",
        { class: "neighbours", "aria-label": "Other units of the layer" },
        step(known[place - 1], (/** @type {number} */ index) => `← unit ${index}`),
        make("span", { class: "where" }, `${integer(place + 1)} of ${integer(known.length)} known here`),
        step(known[place + 1], (/** @type {number} */ index) => `unit ${index} →`),
      )
    : null;
}

/**
 * @param {AnalysisResult} analysis
 * @param {UnitPlaces} found
 */
function unitSection(analysis, found) {
  const tiles = found.tiles.filter((entry) => entry.analysis === analysis);
  const rows = found.rows.filter((entry) => entry.analysis === analysis);
  if (!tiles.length && !rows.length) return null;
  const section = make(
    "section",
    { class: "unit-section" },
    make("h2", null, link(route("analysis", analysis.id), named(analysis.title || analysis.id, 120))),
  );
  for (const entries of alike([...tiles, ...rows], ({ finding }) => `${finding.type} ${finding.id}`)) {
    addTo(section, [
      make("h3", null, named(entries[0].finding.title || entries[0].finding.id, 120)),
      make(
        "div",
        { class: "unit-models", "data-gallery": "" },
        entries.slice(0, 100).map((entry) => unitEntry(entry)),
      ),
      entries.length > 100
        ? make("p", { class: "quiet-text" }, `${integer(entries.length - 100)} more in the analysis' section.`)
        : null,
    ]);
  }
  return section;
}

/** @param {UnitEntry} entry */
function unitEntry({ model, finding, tile, row = [] }) {
  const chip = several ? modelChip(model) : null;
  if (tile) {
    const node = make(
      "article",
      { class: `tile unit-tile${tile.pictures.length > 2 ? " rows" : ""}` },
      chip,
      make("h4", { class: "tile-title" }, named(tile.title, 80)),
      tileBody(tile, { model: several ? model : "" }),
    );
    node.style.setProperty("--columns", String(Math.min(Math.max(tile.pictures.length, 1), 4)));
    return node;
  }
  const columns = /** @type {Column[]} */ (finding.columns);
  const cells = columns
    .map((column, place) => ({ column, value: row[place] }))
    .filter(({ column, value }) => column.kind !== "unit" && !isUnit(value) && value !== null && value !== "");
  return make(
    "article",
    { class: "tile unit-tile" },
    chip,
    make(
      "dl",
      { class: "facts" },
      cells.map(({ column, value }) =>
        make("div", null, make("dt", null, named(column.name, 60)), make("dd", null, cellNode(value, column.kind))),
      ),
    ),
  );
}
