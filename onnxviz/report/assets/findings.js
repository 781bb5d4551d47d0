// One section for each analysis; the findings of a section by type, models side by side.

import { caveatBox } from "./caveats.js";
import { barsFinding, curveFinding, histogramFinding } from "./charts.js";
import { failedJobs, groups, modelChip, places, run, several } from "./data.js";
import { addTo, cellNode, details, isUnit, link, make, named, paragraphs, prose, route } from "./dom.js";
import { failedBox } from "./failures.js";
import { metricBlock } from "./metrics.js";
import { pictureNode } from "./pictures.js";
import { modelHeading, tableFinding } from "./tables.js";
import { beginning, duration, integer, numeric, plural, settingText, shorten } from "./text.js";
import { gridFinding, matrixFinding } from "./tiles.js";

const RENDERERS = new Map(
  /** @type {[string, (group: Group<any>) => Child][]} */ ([
    ["TileGrid", gridFinding],
    ["PictureMatrix", matrixFinding],
    ["Curve", curveFinding],
    ["Bars", barsFinding],
    ["Histogram", histogramFinding],
    ["Table", tableFinding],
    ["Array", arrayFinding],
  ]),
);
// In a section pictures come first, then charts, then tables; within each in the analysis' own order. A table that says
// how to take the pictures stands before them.
const RANKS = new Map([
  ["TileGrid", 0],
  ["PictureMatrix", 0],
  ["Histogram", 1],
  ["Bars", 1],
  ["Curve", 1],
  ["Table", 2],
]);
const MOST_ON_PARTS = 3;
const SHOWN_APART = new Set(["Note", "Metric", "Caveat", "Coverage", "Array"]);

/** @param {Group<ArrayFile>} group */
function arrayFinding(group) {
  return make(
    "ul",
    { class: "files" },
    group.entries.map(({ model, finding }) =>
      make(
        "li",
        null,
        several ? [modelChip(model), " "] : null,
        finding.address
          ? link(finding.address, named(finding.title || finding.id, 100))
          : named(finding.title || finding.id, 100),
        make("span", { class: "quiet-text" }, " ", make("code", null, named(finding.path, 120))),
      ),
    ),
  );
}

// What a package of its own has found: the report knows nothing of it but its fields.
const HEAD_FIELDS = new Set(["type", "id", "title", "description"]);
const MOST_ENTRIES = 200;

/** @param {Group<any>} group */
function ownFinding(group) {
  return group.entries.map(({ model, finding }) => [
    group.entries.length > 1 ? modelHeading(model) : null,
    fieldTable(finding, model),
  ]);
}

/**
 * @param {Record<string, any>} value
 * @param {string} model
 */
function fieldTable(value, model) {
  const rows = Object.entries(value).filter(([name, item]) => !HEAD_FIELDS.has(name) || typeof item !== "string");
  return make(
    "div",
    { class: "scroll" },
    make(
      "table",
      { class: "fields" },
      make(
        "tbody",
        null,
        rows.map(([name, item]) =>
          make(
            "tr",
            null,
            make("th", { scope: "row" }, named(name.replaceAll("_", " "), 80)),
            make("td", null, fieldNode(item, model)),
          ),
        ),
      ),
    ),
  );
}

/**
 * @param {any} item
 * @param {string} model
 * @returns {Child}
 */
function fieldNode(item, model) {
  if (Array.isArray(item)) {
    const more = item.length - MOST_ENTRIES;
    const shown = item
      .slice(0, MOST_ENTRIES)
      .map((entry, place) => [
        place ? ", " : null,
        Array.isArray(entry) ? ["(", fieldNode(entry, model), ")"] : fieldNode(entry, model),
      ]);
    return item.length ? [shown, more > 0 ? ` and ${integer(more)} more` : null] : make("span", { class: "none" }, "–");
  }
  if (item === null || typeof item !== "object" || isUnit(item) || item.type === "float") return cellNode(item);
  if (item.type === "Picture") return pictureNode(item, "");
  const draw = RENDERERS.get(item.type);
  return draw ? draw({ type: item.type, entries: [{ model, finding: item }] }) : fieldTable(item, model);
}

/** @param {Group<Note>} group */
function sentence(group) {
  const said = group.entries.map((entry) => entry.model);
  const inAll = !several || said.length === run.models.length;
  return make(
    "li",
    null,
    inAll ? null : said.map((model) => [modelChip(model), " "]),
    make("span", null, prose(beginning(group.entries[0].finding.text, 5000))),
  );
}

/**
 * @param {string[]} models
 * @param {Coverage} finding
 */
function coverageLine(models, finding) {
  const total = Math.max(finding.total, 0);
  const share = total ? Math.max(0, Math.min(1, finding.done / total)) : 0;
  const filled = make("span");
  filled.style.setProperty("width", `${100 * share}%`);
  return make(
    "li",
    null,
    make(
      "span",
      { class: "coverage-what" },
      models.map((model) => [modelChip(model), " "]),
      named(finding.what, 80),
    ),
    make("span", { class: "coverage-bar", "aria-hidden": "true" }, finding.done > 0 ? filled : null),
    make("span", { class: "coverage-count" }, `${integer(finding.done)} of ${integer(total)}`),
    finding.reason ? make("span", { class: "coverage-reason" }, prose(beginning(finding.reason, 2000))) : null,
  );
}

/**
 * One line where all models were covered alike, else a line for each.
 * @param {AnalysisResult} analysis
 */
export function coverageList(analysis) {
  return groups(analysis, (finding) => finding.type === "Coverage").flatMap(({ entries }) => {
    const [first] = entries;
    const same = entries.every(({ finding }) =>
      ["done", "total", "reason"].every((name) => finding[name] === first.finding[name]),
    );
    if (same && (!several || entries.length === run.models.length)) return [coverageLine([], first.finding)];
    return entries.map(({ model, finding }) => coverageLine([model], finding));
  });
}

/**
 * @param {AnalysisResult} analysis
 * @param {Group<any>} group
 * @param {"h4" | "h5"} [level]
 */
function findingBlock(analysis, group, level = "h4") {
  const { finding } = group.entries[0];
  const draw = RENDERERS.get(group.type) ?? ownFinding;
  const [id, title, description] = ["id", "title", "description"].map((name) =>
    typeof finding[name] === "string" ? finding[name] : "",
  );
  const kind = group.type.slice(group.type.lastIndexOf(".") + 1);
  const address = route("analysis", analysis.id, id || kind);
  const missing = several
    ? run.models
        .map((model) => model.alias)
        .filter(
          (alias) =>
            analysis.parts.some((part) => part.model === alias) &&
            !group.entries.some((entry) => entry.model === alias),
        )
    : [];
  const block = make(
    "section",
    { class: `finding ${draw === ownFinding ? "own" : kind.toLowerCase()}` },
    make(level, null, link(address, named(title || id || kind, 200))),
    paragraphs(description, "description"),
    missing.length
      ? make(
          "p",
          { class: "quiet-text" },
          "Not reported for ",
          missing.map((alias) => [modelChip(alias), " "]),
        )
      : null,
    group.entries.length === 1 && several ? modelHeading(group.entries[0].model) : null,
  );
  addTo(block, [draw(group)]);
  places.set(address, block);
  return block;
}

/**
 * What was found in words; sentences on single parts, such as images, fold away where they would hide the rest.
 * @param {Group<Note>[]} notes
 */
function notesOf(notes) {
  const list = (/** @type {Group<Note>[]} */ some) =>
    some.length ? make("ul", { class: "notes" }, some.map(sentence)) : null;
  const parts = notes.filter((group) => group.entries[0].finding.about);
  if (parts.length <= MOST_ON_PARTS) return list(notes);
  const name = beginning(parts[0].entries[0].finding.about, 60);
  return [
    list(notes.filter((group) => !parts.includes(group))),
    details(`On ${name} (${integer(parts.length)})`, "method", () => list(parts)),
  ];
}

/** @param {AnalysisResult} analysis */
export function analysisSection(analysis) {
  const of = (/** @type {string} */ type) => groups(analysis, (finding) => finding.type === type);
  const rank = (/** @type {Group<any>} */ { type, entries }) =>
    entries[0].finding.leading ? -1 : (RANKS.get(type) ?? RANKS.size);
  const rest = groups(analysis, (finding) => !SHOWN_APART.has(finding.type)).sort(
    (one, other) => rank(one) - rank(other),
  );
  const reading = rest.some((group) => RANKS.get(group.type) === 0) ? analysis.reading : "";
  const heading = make("h3", { tabindex: "-1" }, named(analysis.title || analysis.id, 200));
  const coverage = coverageList(analysis);
  const metrics = of("Metric");
  const found = analysis.parts.some((part) => part.findings.length);
  const arrays = of("Array");
  const failed = failedJobs().filter((entry) => entry.analysis === analysis);
  const body = [
    make(
      "header",
      { class: "section-head" },
      make(
        "p",
        { class: "eyebrow" },
        named(analysis.id, 60),
        analysis.kind !== analysis.id ? [" · ", named(analysis.kind.replaceAll("_", " "), 60)] : null,
      ),
      heading,
      analysis.summary && analysis.summary !== analysis.title
        ? make("p", { class: "lede" }, beginning(analysis.summary, 2000))
        : null,
    ),
    failed.length ? failedBox(failed, `${plural(failed.length, "job")} of this analysis failed`) : null,
    found
      ? null
      : make(
          "p",
          { class: "nothing" },
          failed.length
            ? "Nothing was found, because every job that would have found it failed."
            : "This analysis reported nothing.",
        ),
    notesOf(of("Note")),
    metricBlock(analysis, metrics),
    caveatBox(of("Caveat")),
    reading
      ? make(
          "p",
          { class: "reading" },
          make("strong", null, "How to read the pictures. "),
          prose(beginning(reading, 2000)),
        )
      : null,
    rest.map((group) => findingBlock(analysis, group)),
    coverage.length
      ? make(
          "div",
          { class: "finding" },
          make("h4", null, "How much was looked at"),
          make("ul", { class: "coverage" }, coverage),
        )
      : null,
    arrays.length ? details("Numbers for other programs", "method", () => arrays.map(arrayFinding)) : null,
    details("How this was made", "method", () => methodNode(analysis)),
  ];
  const section = make("section", { class: "analysis" }, body);
  places.set(route("analysis", analysis.id), section);
  return section;
}

/** @param {AnalysisResult} analysis */
function methodNode(analysis) {
  const settings = Object.entries(analysis.settings);
  const text = analysis.description === analysis.summary ? "" : analysis.description;
  return make(
    "div",
    { class: "method-body" },
    paragraphs(text),
    settings.length
      ? make(
          "dl",
          { class: "settings" },
          settings.map(([name, value]) =>
            make(
              "div",
              null,
              make("dt", null, named(name, 80)),
              make("dd", null, make("code", null, shorten(settingText(value), 1000))),
            ),
          ),
        )
      : null,
    analysis.cites.length
      ? make(
          "ul",
          { class: "cites" },
          analysis.cites.map((cite) => make("li", null, beginning(cite, 2000))),
        )
      : null,
    make(
      "p",
      { class: "quiet-text" },
      analysis.parts.map((part) => [
        several ? [modelChip(part.model), " "] : null,
        `${plural(part.jobs, "job")}, ${integer(part.cached)} taken from the cache, ${duration(numeric(part.seconds))}. `,
      ]),
    ),
  );
}
