// The island, and what is looked up in it. Keys that come from outside live in Maps.

import { make, named, required } from "./dom.js";

/** @type {Island} */
export const island = JSON.parse(required("island").textContent ?? "");
export const run = island.run;
/**
 * Where an address of the report leads.
 * @type {Map<string, Element>}
 */
export const places = new Map();
export const several = run.models.length > 1;
const modelNumbers = new Map(run.models.map((model, number) => [model.alias, number]));

/** @param {string} alias */
function modelNumber(alias) {
  return modelNumbers.get(alias) ?? 0;
}

/** @param {string} alias */
export function modelClass(alias) {
  return `model-${modelNumber(alias) % 6}`;
}

/** @param {string} alias */
export function modelChip(alias) {
  return make(
    "span",
    { class: `chip ${modelClass(alias)}` },
    make("span", { class: "swatch", "aria-hidden": "true" }),
    named(alias, 40),
  );
}

export function failedJobs() {
  return run.analyses.flatMap((analysis) =>
    analysis.parts.flatMap((part) => {
      return part.failed.map((job) => ({ analysis, model: part.model, job: job.job, error: job.error }));
    }),
  );
}

/** @param {any} finding */
function identity(finding) {
  if (finding.type === "Metric") return `Metric ${finding.id || finding.name}`;
  if (finding.type === "Coverage") return `Coverage ${finding.id || finding.what}`;
  if (finding.type === "Note" || finding.type === "Caveat") return `${finding.type} ${finding.text}`;
  return `${finding.type} ${finding.id}`;
}

/**
 * Items of the same key together, in the order of their first ones.
 * @template T
 * @param {Iterable<T>} items
 * @param {(item: T) => unknown} keyOf
 * @returns {T[][]}
 */
export function alike(items, keyOf) {
  /** @type {Map<unknown, T[]>} */
  const found = new Map();
  for (const item of items) {
    const key = keyOf(item);
    const known = found.get(key);
    if (known) known.push(item);
    else found.set(key, [item]);
  }
  return [...found.values()];
}

/**
 * Each item with how often its name came before it.
 * @template T
 * @param {T[]} items
 * @param {(item: T) => string} nameOf
 */
export function numbered(items, nameOf) {
  /** @type {Map<string, number>} */
  const seen = new Map();
  return items.map((item) => {
    const name = nameOf(item);
    const turn = seen.get(name) ?? 0;
    seen.set(name, turn + 1);
    return { item, key: `${turn} ${name}` };
  });
}

/**
 * Findings with the same identity over all models of an analysis: [{ type, entries: [{ model, finding }] }].
 * @param {AnalysisResult} analysis
 * @param {(finding: any) => boolean} wanted
 * @returns {Group<any>[]}
 */
export function groups(analysis, wanted) {
  const found = analysis.parts.flatMap(({ model, findings }) =>
    numbered(findings.filter(wanted), identity).map(({ item, key }) => ({ model, finding: item, key })),
  );
  return alike(found, ({ key }) => key).map((entries) => ({ type: entries[0].finding.type, entries }));
}

// --- a few pictures that show what an analysis made, for its card on the first screen ---

/**
 * @template T
 * @param {T[]} list
 * @param {number} count
 */
function spread(list, count) {
  const number = Math.min(count, list.length);
  return Array.from({ length: number }, (_, place) => list[Math.floor((place * list.length) / number)]);
}

/**
 * One picture of each tile. Where the tiles' first fact tells kinds apart, the first tile of each kind leads.
 * @param {TileGrid} grid
 */
function tilePictures(grid) {
  const tiles = grid.tiles.filter((tile) => tile.pictures.length);
  /** @type {Map<string, Tile>} */
  const kinds = new Map();
  for (const tile of tiles) {
    const kind = tile.facts.length && typeof tile.facts[0][1] === "string" ? tile.facts[0][1] : "";
    if (!kinds.has(kind)) kinds.set(kind, tile);
  }
  const first = kinds.size > 2 ? [...kinds.values()].slice(0, 6) : [];
  const rest = tiles.filter((tile) => !first.includes(tile));
  return { first: first.map((tile) => tile.pictures[0]), rest: rest.map((tile) => tile.pictures[0]) };
}

/**
 * A matrix' rows as pairs: the original, and the last column's last picture.
 * @param {PictureMatrix} matrix
 */
function rowPairs(matrix) {
  return matrix.rows.flatMap((row) => {
    const cells = row.cells.filter((cell) => cell && cell.length);
    const last = cells.length ? cells[cells.length - 1] : null;
    return row.lead && last ? [{ lead: row.lead, last: last[last.length - 1] }] : [];
  });
}

/**
 * The pictures of one model, at most `count`: its grid with most pictures, else the rows of its matrices.
 * @param {Part} part
 * @param {number} count
 * @param {boolean} pairs
 */
function partSample(part, count, pairs) {
  const grids = part.findings.filter((finding) => finding.type === "TileGrid").map(tilePictures);
  const size = (/** @type {ReturnType<typeof tilePictures>} */ grid) =>
    Math.min(grid.first.length + grid.rest.length, 6);
  const best = grids.reduce((found, grid) => (size(found) >= size(grid) ? found : grid), { first: [], rest: [] });
  if (size(best)) {
    const fine = best.first
      .concat(best.rest)
      .slice(0, 6)
      .every((picture) => picture.width < 48)
      ? 24 / 6
      : 1;
    return [...best.first.slice(0, count * fine), ...spread(best.rest, Math.max(0, count * fine - best.first.length))];
  }
  const rows = spread(
    part.findings.filter((finding) => finding.type === "PictureMatrix").flatMap(rowPairs),
    pairs ? Math.floor(count / 2) : count,
  );
  return pairs ? [...rows.map((row) => row.lead), ...rows.map((row) => row.last)] : rows.map((row) => row.last);
}

/**
 * Returns { pictures, layout }: the number of pictures always fills the layout.
 * @param {AnalysisResult} analysis
 */
export function samplePictures(analysis) {
  const parts = analysis.parts.slice(0, 6);
  const one = parts.length === 1;
  const lists = parts
    .map((part) => partSample(part, Math.max(1, Math.floor(6 / parts.length)), one))
    .filter((list) => list.length);
  const least = Math.min(...lists.map((list) => list.length));
  const pictures = lists.flatMap((list) => (one ? list : list.slice(0, least)));
  const fine = pictures.length >= 24 && pictures.slice(0, 24).every((picture) => picture.width < 48);
  const count = fine ? 24 : ([6, 4, 3, 2, 1].find((number) => number <= pictures.length) ?? 0);
  return { pictures: pictures.slice(0, count), layout: `of-${count}` };
}
