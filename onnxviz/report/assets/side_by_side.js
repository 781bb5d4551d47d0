// Several analyses that made pictures of the same units: a column for each analysis, a row for each unit.

import { places, run, several } from "./data.js";
import { make, route } from "./dom.js";
import { plural } from "./text.js";
import { matrixNode } from "./tiles.js";

export const SIDE_BY_SIDE = "side-by-side";

/** The analyses that made pictures for titles which others made them for too, and which titles these are. */
function comparedAnalyses() {
  const made = run.analyses
    .filter((analysis) => analysis.side_by_side)
    .map((analysis) => ({ analysis, tiles: titledTiles(analysis) }));
  const counts = new Map();
  for (const { tiles } of made) for (const key of tiles.keys()) counts.set(key, (counts.get(key) ?? 0) + 1);
  const shared = (/** @type {string} */ key) => counts.get(key) > 1;
  return { shared, made: made.filter(({ tiles }) => [...tiles.keys()].some(shared)) };
}

/** @param {AnalysisResult} analysis */
function titledTiles(analysis) {
  /** @type {Map<string, { model: string, tile: Tile }>} */
  const found = new Map();
  for (const part of analysis.parts) {
    for (const finding of part.findings) {
      if (finding.type !== "TileGrid") continue;
      for (const tile of finding.tiles) {
        const key = JSON.stringify([part.model, tile.title]);
        if (tile.pictures.length && !found.has(key)) found.set(key, { model: part.model, tile });
      }
    }
  }
  return found;
}

export function sideBySideSection() {
  const { shared, made } = comparedAnalyses();
  if (made.length < 2) return null;
  const keys = [...new Set(made.flatMap(({ tiles }) => [...tiles.keys()]))].filter(shared);
  const rows = keys.flatMap((key) => {
    const found = made.map(({ tiles }) => tiles.get(key));
    const known = found.find(Boolean);
    if (!known) return [];
    const cells = found.map((entry) => (entry ? [entry.tile.pictures[0]] : []));
    return [{ model: known.model, row: { title: known.tile.title, lead: null, facts: [], cells } }];
  });
  const columns = made.map(({ analysis }) => analysis.title || analysis.id);
  const finding = { title: "Side by side", scale: "" };
  const section = make(
    "section",
    { class: "analysis" },
    make(
      "header",
      { class: "section-head" },
      make("p", { class: "eyebrow" }, plural(made.length, "analysis", "analyses")),
      make("h3", { tabindex: "-1" }, "Side by side"),
    ),
    make(
      "p",
      { class: "reading" },
      "The same units, a column for each way in which their pictures were made; of several pictures the first. What differs between columns is the method's doing, not the unit's.",
    ),
    make("section", { class: "finding picturematrix" }, matrixNode(columns, rows, finding, several)),
  );
  places.set(route(SIDE_BY_SIDE), section);
  return section;
}
