// Numbers with what they rest on; for two models with what their difference is worth.

import { island, modelChip, run, several } from "./data.js";
import { make, named, prose } from "./dom.js";
import { beginning, formatDifference, formatNumber, integer, numeric, THIN } from "./text.js";

/**
 * @param {AnalysisResult} analysis
 * @param {Group<Metric>[]} entries
 */
export function metricBlock(analysis, entries) {
  if (!entries.length) return null;
  if (!several) {
    return make(
      "dl",
      { class: "metrics" },
      entries.filter((group) => !group.entries[0].finding.tabled).map((group) => metricCard(group.entries[0].finding)),
    );
  }
  const models = run.models.map((model) => model.alias);
  const two = models.length === 2;
  const rows = entries.map((group) => {
    const { finding } = group.entries[0];
    const found = models.map((alias) => group.entries.find((entry) => entry.model === alias)?.finding ?? null);
    const [before, after] = found.map((metric) => (metric ? numeric(metric.value) : null));
    const difference = two && before !== null && after !== null ? after - before : null;
    const judged = two
      ? island.differences.find((item) => item.analysis === analysis.id && item.metric === (finding.id || finding.name))
      : null;
    return make(
      "tr",
      null,
      make(
        "th",
        { scope: "row" },
        named(finding.title || finding.name, 80),
        finding.description ? make("div", { class: "quiet-text" }, prose(beginning(finding.description, 2000))) : null,
      ),
      found.map((metric) =>
        make("td", { class: "numeric" }, metric ? [formatNumber(metric.value, metric.format), basisNode(metric)] : "–"),
      ),
      two
        ? make(
            "td",
            { class: `numeric ${goodness(judged)}` },
            difference === null ? "–" : formatDifference(difference, finding.format),
            judged?.interval.length
              ? make(
                  "div",
                  { class: "quiet-text" },
                  spanText(judged.interval, (value) => formatDifference(numeric(value), finding.format)),
                )
              : null,
          )
        : null,
      two ? make("td", { class: goodness(judged) }, verdictNode(judged, difference)) : null,
    );
  });
  const table = make(
    "table",
    { class: "metric-table" },
    make(
      "thead",
      null,
      make(
        "tr",
        null,
        make("td"),
        models.map((alias) => make("th", { scope: "col", class: "numeric" }, modelChip(alias))),
        two ? make("th", { scope: "col", class: "numeric" }, "difference") : null,
        two ? make("td") : null,
      ),
    ),
    make("tbody", null, rows),
  );
  table.style.setProperty("--cells", String(Math.max(models.length, two ? 4 : 1)));
  return make("div", { class: "scroll" }, table);
}

/** @param {Difference | null | undefined} judged */
function goodness(judged) {
  return judged?.verdict === "better" ? "good-text" : judged?.verdict === "worse" ? "bad-text" : "";
}

/**
 * Better or worse is said only of what chance hardly explains.
 * @param {Difference | null | undefined} judged
 * @param {number | null} difference
 */
function verdictNode(judged, difference) {
  if (!judged || judged.verdict === "unknown") {
    return judged?.reason ? make("div", { class: "quiet-text" }, prose(judged.reason)) : null;
  }
  const word =
    judged.verdict === "none" ? (difference ? "no difference can be told" : "no difference") : judged.verdict;
  return [
    make("span", { class: "verdict-word" }, word),
    judged.reason ? make("div", { class: "quiet-text" }, prose(beginning(judged.reason, 2000))) : null,
  ];
}

/**
 * @param {Float[]} bounds
 * @param {(bound: Float) => string} write
 */
export function spanText(bounds, write) {
  const [low, high] = bounds.map(write);
  return low === high ? low : `${low} to ${high}`;
}

/**
 * What a number rests on: of how many, its interval, and what chance gives.
 * @param {Metric} metric
 */
function basisText(metric) {
  const write = (/** @type {Float} */ value) => formatNumber(value, metric.format);
  const parts = [];
  if (metric.count !== null) parts.push(`${integer(metric.count)} of ${integer(metric.total)}`);
  else if (metric.total) {
    parts.push(metric.format === "integer" ? `of ${integer(metric.total)}` : `n = ${integer(metric.total)}`);
  }
  if (metric.interval.length) parts.push(`95${THIN}% within ${spanText(metric.interval, write)}`);
  if (metric.chance.length) parts.push(`by chance ${spanText(metric.chance, write)}`);
  return parts.join("; ");
}

/** @param {Metric} metric */
export function basisNode(metric) {
  const text = basisText(metric);
  return text ? make("div", { class: "basis" }, text) : null;
}

/** @param {Metric} metric */
function metricCard(metric) {
  const value = numeric(metric.value);
  const direction =
    metric.better === "higher" ? "higher is better" : metric.better === "lower" ? "lower is better" : "";
  return make(
    "div",
    { class: "metric" },
    make("dt", null, named(metric.title || metric.name, 80)),
    make(
      "dd",
      { class: `metric-value${Number.isNaN(value) ? " bad-text" : ""}` },
      formatNumber(value, metric.format),
      basisNode(metric),
    ),
    metric.description || direction
      ? make(
          "dd",
          { class: "metric-text" },
          prose(
            [metric.description && beginning(metric.description, 2000), direction && `(${direction})`]
              .filter(Boolean)
              .join(" "),
          ),
        )
      : null,
    make("dd", { class: "metric-name" }, make("code", null, named(metric.name, 80))),
  );
}
