// The first screen: what failed, the verdict, what was found in words, and what was looked at.

import { agreementTag, runtimeFaultText } from "./agreement.js";
import { caveatLines, caveatList, headOf } from "./caveats.js";
import { failedJobs, groups, island, modelChip, modelClass, run, samplePictures, several } from "./data.js";
import { cellNode, link, make, named, prose, route } from "./dom.js";
import { failedBox } from "./failures.js";
import { coverageList } from "./findings.js";
import { basisNode } from "./metrics.js";
import { pictureNode } from "./pictures.js";
import {
  beginning,
  deviceText,
  duration,
  formatNumber,
  integer,
  magnitude,
  moment,
  numeric,
  plural,
  shorten,
} from "./text.js";

/** @param {FailedEntry[]} failed */
function verdictBlock(failed) {
  const wanted = run.expectations.filter((item) => item.level !== "off");
  const broken = wanted.filter((item) => item.level === "error" && !item.holds);
  const warned = wanted.filter((item) => item.level === "warn" && !item.holds);
  const words = new Map([
    ["passed", ["Passed", "good", "✓"]],
    ["failed", ["Failed", "bad", "✕"]],
    ["incomplete", ["Incomplete", "bad", "!"]],
    ["finished", ["Finished, not tested", "", "–"]],
  ]);
  const [word, tone, sign] = words.get(run.verdict) ?? ["Unknown", "bad", "?"];
  const jobs = plural(run.provenance.jobs, "job"),
    allJobs = run.provenance.jobs === 1 ? "the only job" : `all ${jobs}`;
  const sentences = [];
  if (failed.length) sentences.push(`${integer(failed.length)} of ${jobs} failed: parts of this report are missing.`);
  if (broken.length) {
    sentences.push(
      wanted.length === 1
        ? "The only expectation does not hold."
        : `${integer(broken.length)} of ${integer(wanted.length)} expectations ${broken.length === 1 ? "does" : "do"} not hold.`,
    );
  }
  if (!wanted.length) {
    sentences.push(
      failed.length
        ? "No expectations were set."
        : `${allJobs[0].toUpperCase()}${allJobs.slice(1)} finished. No expectations were ${run.expectations.length ? "tested" : "set"}, so nothing was put to the test.`,
    );
  } else if (!broken.length) {
    sentences.push(
      `${warned.length ? "No expectation fails" : `${wanted.length === 1 ? "The only expectation holds" : `All ${integer(wanted.length)} expectations hold`}`}${failed.length ? "" : `, and ${allJobs} finished`}.`,
    );
  }
  if (warned.length) sentences.push(`${plural(warned.length, "warning")}.`);
  return make(
    "div",
    { class: `verdict ${tone}` },
    make("p", { class: "verdict-word-large" }, make("span", { class: "sign", "aria-hidden": "true" }, sign), word),
    make("p", { class: "verdict-text" }, sentences.join(" ")),
  );
}

function comparableBox() {
  if (!run.not_comparable.length) return null;
  return make(
    "section",
    { class: "alert bad", role: "alert" },
    make("h3", null, "NOT COMPARABLE"),
    make("p", null, "The models were not given the same task, so differences between them may come from that:"),
    make(
      "ul",
      null,
      run.not_comparable.slice(0, 200).map((reason) => make("li", null, beginning(reason, 2000))),
    ),
  );
}

function expectationTable() {
  if (!run.expectations.length) return null;
  const rows = run.expectations.map((item) => {
    const [word, tone] =
      item.level === "off"
        ? ["not checked", ""]
        : item.holds
          ? ["holds", "good"]
          : item.level === "warn"
            ? ["warning", "warn"]
            : ["does not hold", "bad"];
    const value =
      item.value === null ? make("span", { class: "quiet-text" }, "not produced") : cellNode(item.value, "number");
    return make(
      "tr",
      null,
      make("td", null, make("span", { class: `tag ${tone}` }, word)),
      make(
        "th",
        { scope: "row" },
        make("code", null, named(item.metric, 100)),
        several && item.model && !item.metric.startsWith(`${item.model}:`) ? [" ", modelChip(item.model)] : null,
      ),
      make("td", null, named(item.condition, 100)),
      make("td", { class: "numeric" }, value),
      make("td", { class: "because" }, item.because ? prose(beginning(item.because, 2000)) : ""),
    );
  });
  return make(
    "section",
    { class: "block" },
    make("h3", null, "Expectations"),
    make(
      "div",
      { class: "scroll" },
      make(
        "table",
        { class: "expectations" },
        make(
          "thead",
          null,
          make(
            "tr",
            null,
            ["", "metric", "wanted", "found", "because"].map((head, place) =>
              make(
                "th",
                { scope: "col", class: place === 3 ? "numeric" : null },
                head || make("span", { class: "unseen" }, "verdict"),
              ),
            ),
          ),
        ),
        make("tbody", null, rows),
      ),
    ),
  );
}

/**
 * Every model's first sentence, then every model's second one, and so on.
 * @param {Group<Note>[]} notes
 */
function inTurn(notes) {
  /** @type {Map<string, number>} */
  const said = new Map();
  const turns = new Map(
    notes.map((group) => [
      group,
      Math.min(
        ...group.entries.map(({ model }) => {
          const turn = (said.get(model) ?? 0) + 1;
          said.set(model, turn);
          return turn;
        }),
      ),
    ]),
  );
  return [...notes].sort((one, other) => (turns.get(one) ?? 0) - (turns.get(other) ?? 0));
}

/**
 * The sentences of a card: those on the whole analysis, and those on its parts only where all of them find room. A
 * model's only sentence on a part speaks of all there is.
 * @param {AnalysisResult} analysis
 * @param {number} most
 */
function headlines(analysis, most) {
  const notes = inTurn(groups(analysis, (finding) => finding.type === "Note"));
  const single = analysis.parts.every(
    (part) => part.findings.filter((finding) => finding.type === "Note" && finding.about).length < 2,
  );
  const whole = notes.filter((group) => single || !group.entries[0].finding.about);
  if (notes.length <= most || whole.length === notes.length) return { shown: notes.slice(0, most), rest: "" };
  const left = notes.find((group) => !whole.includes(group));
  return { shown: whole.slice(0, most), rest: left?.entries[0].finding.about ?? "" };
}

function highlightCards() {
  const cards = run.analyses.map((analysis) => {
    const sample = samplePictures(analysis);
    const { shown, rest } = headlines(analysis, run.models.length > 2 ? 2 : 3);
    const metrics = groups(analysis, (finding) => finding.type === "Metric").slice(0, several ? 1 : 3);
    const failed = analysis.parts.reduce((sum, part) => sum + part.failed.length, 0);
    return make(
      "article",
      { class: "highlight" },
      sample.pictures.length
        ? make(
            "div",
            { class: `strip ${sample.layout}`, "aria-hidden": "true" },
            sample.pictures.map((picture) => pictureNode(picture, "", { decorative: true })),
          )
        : null,
      make(
        "div",
        { class: "highlight-text" },
        make("h3", null, link(route("analysis", analysis.id), named(analysis.title || analysis.id, 120))),
        shown.length
          ? shown.map((group) =>
              make(
                "p",
                null,
                several && group.entries.length < run.models.length
                  ? group.entries.map((entry) => [modelChip(entry.model), " "])
                  : null,
                prose(beginning(group.entries[0].finding.text, 1000)),
              ),
            )
          : make("p", { class: "quiet-text" }, beginning(analysis.summary, 1000)),
        rest
          ? make("p", { class: "quiet-text" }, link(route("analysis", analysis.id), "More on ", named(rest, 100)), ".")
          : null,
        failed ? make("p", { class: "bad-text" }, `${plural(failed, "job")} failed.`) : null,
        metrics.length
          ? make(
              "dl",
              { class: "mini" },
              metrics.map((group) =>
                make(
                  "div",
                  null,
                  make("dt", null, named(group.entries[0].finding.title || group.entries[0].finding.name, 160)),
                  group.entries.map((entry) =>
                    make(
                      "dd",
                      null,
                      several
                        ? [
                            make("span", {
                              class: `swatch ${modelClass(entry.model)}`,
                              title: shorten(entry.model, 100),
                            }),
                            " ",
                          ]
                        : null,
                      formatNumber(entry.finding.value, entry.finding.format),
                      basisNode(entry.finding),
                    ),
                  ),
                ),
              ),
            )
          : null,
      ),
    );
  });
  return cards.length ? make("div", { class: "highlights" }, cards) : null;
}

function coverageBlock() {
  const rows = run.analyses
    .map((analysis) => ({ analysis, lines: coverageList(analysis) }))
    .filter((row) => row.lines.length);
  if (!rows.length) return null;
  return make(
    "section",
    { class: "block" },
    make("h3", null, "What was looked at"),
    make("p", { class: "quiet-text" }, "How much of what there is was analysed. Nothing is sampled in silence."),
    make(
      "div",
      { class: "coverage-groups" },
      rows.map(({ analysis, lines }) =>
        make(
          "div",
          null,
          make("h4", null, link(route("analysis", analysis.id), named(analysis.title || analysis.id, 100))),
          make("ul", { class: "coverage" }, lines),
        ),
      ),
    ),
  );
}

/** Everything to know before believing, over all analyses; what several of them say of the model's input is one line. */
function caveatBlock() {
  /** @type {CaveatLine[]} */
  const lines = [];
  /**
   * @param {string} level
   * @param {Child} head
   * @param {string} [rest]
   * @param {CaveatLine["where"]} [where]
   */
  const add = (level, head, rest = "", where = null) => lines.push({ level, head, rest, where });
  for (const model of run.models) {
    // The same sentences as in the analyses (`Preprocessing.doubt`), whose lines join these.
    if (model.preprocessing_origin === "guess") {
      add(
        "wrong",
        "Nobody said how images become this model's input.",
        "If the guess is wrong, so is everything here.",
        several ? () => modelChip(model.alias) : null,
      );
    }
    for (const text of model.tried?.doubts ?? []) {
      add("wrong", ...headOf(text), several ? () => modelChip(model.alias) : null);
    }
    if (model.preprocessing_origin === "undecided") {
      add(
        "wrong",
        "Nothing was chosen for how images become this model's input.",
        model.preprocessing,
        several ? () => modelChip(model.alias) : null,
      );
    }
    if (model.preprocessing_origin === "trial") {
      add(
        "wrong",
        "How images become this model's input was chosen by trial, not declared.",
        model.tried ? `Tried on ${plural(model.tried.images, "image")}: ${model.tried.verdict}.` : "",
        () => [several ? [modelChip(model.alias), " "] : null, link(route("models"), "what was tried")],
      );
    }
    const fault = runtimeFaultText(model);
    if (fault) add("doubt", fault);
  }
  const lost = island.missing.length;
  if (lost) {
    add(
      "doubt",
      `${plural(lost, "picture")} of the run could not be found and ${lost === 1 ? "is" : "are"} missing here.`,
    );
  }
  for (const data of run.data.filter((source) => source.skipped.length)) {
    add("limit", [
      `${plural(data.skipped.length, "file")} of `,
      named(data.name, 60),
      ` ${data.skipped.length === 1 ? "was" : "were"} skipped; `,
      link(route("data"), "which, and why"),
      ".",
    ]);
  }
  for (const analysis of run.analyses) {
    const found = groups(analysis, (finding) => finding.type === "Caveat");
    lines.push(
      ...caveatLines(found, () => link(route("analysis", analysis.id), named(analysis.title || analysis.id, 60))),
    );
  }
  if (!lines.length) return null;
  return make(
    "section",
    { class: "block" },
    make("aside", { class: "caveats" }, make("h3", null, "Know before believing"), caveatList(lines)),
  );
}

export function overview() {
  const failed = failedJobs();
  const { started, seconds } = run.provenance;
  return make(
    "section",
    { class: "overview" },
    make(
      "header",
      { class: "masthead" },
      make(
        "p",
        { class: "eyebrow" },
        [moment(started), `${duration(numeric(seconds))} on ${deviceText(run.provenance.device)}`]
          .filter(Boolean)
          .join(" · "),
      ),
      make("h1", { tabindex: "-1" }, named(run.title || "onnxviz report", 200)),
      make(
        "div",
        { class: "subjects" },
        run.models.map((model) =>
          make(
            "div",
            { class: "subject" },
            several ? modelChip(model.alias) : null,
            make("span", null, named(model.file, 80)),
            make(
              "span",
              { class: "quiet-text" },
              `${magnitude(model.parameters)} parameters · ${plural(model.layers.length, "layer")}`,
            ),
            agreementTag(model),
          ),
        ),
      ),
    ),
    failed.length
      ? failedBox(failed, `${integer(failed.length)} of ${plural(run.provenance.jobs, "job")} failed`)
      : null,
    comparableBox(),
    verdictBlock(failed),
    run.analyses.length
      ? make("h2", { class: "unseen" }, "What was found")
      : make("p", { class: "nothing" }, "This run holds no analysis."),
    // What does not hold is read before the pictures; otherwise the pictures come first.
    run.verdict === "failed" ? [expectationTable(), highlightCards()] : [highlightCards(), expectationTable()],
    caveatBlock(),
    coverageBlock(),
  );
}
