// The models: files, preprocessing, layers.

import { agreementTag, agreementText, holds } from "./agreement.js";
import { modelChip, places, run, several } from "./data.js";
import { cellNode, details, make, named, route } from "./dom.js";
import { spanText } from "./metrics.js";
import { dataTable } from "./tables.js";
import { beginning, bytes, formatNumber, integer, magnitude, numeric, plural, shorten, THIN } from "./text.js";

export function modelsSection() {
  const section = make(
    "section",
    { class: "chapter" },
    make("h2", { tabindex: "-1" }, several ? "The models" : "The model"),
    modelFacts(),
    run.models.map((model) =>
      make(
        "div",
        { class: "model-detail" },
        several ? make("h3", null, modelChip(model.alias)) : null,
        agreementText(model),
        modelWarnings(model),
        triedText(model),
        details(`Layers (${integer(model.layers.length)})`, "method", () => layerTable(model)),
        model.passes.length
          ? details(`What the importer did (${plural(model.passes.length, "step")})`, "method", () =>
              make(
                "ol",
                { class: "passes" },
                model.passes.map((pass) => make("li", null, beginning(pass, 2000))),
              ),
            )
          : null,
      ),
    ),
  );
  places.set(route("models"), section);
  return section;
}

/** @param {ModelCard} model */
function originTag(model) {
  /** @type {Partial<Record<ModelCard["preprocessing_origin"], string>>} */
  const origins = {
    trial: "chosen by trial, not declared",
    undecided: "not declared, and nothing was chosen",
    guess: "not declared: a guess",
  };
  const words = origins[model.preprocessing_origin];
  return words ? make("div", null, make("span", { class: "tag warn" }, words)) : null;
}

function modelFacts() {
  /** @type {[string, (model: ModelCard) => Child][]} */
  const lines = [
    ["file", (model) => [named(model.file, 120), " ", make("span", { class: "quiet-text" }, bytes(model.bytes))]],
    [
      "SHA-256",
      (model) => make("code", { class: "digest", title: shorten(model.digest, 200) }, shorten(model.digest, 27)),
    ],
    ["made by", (model) => [named(model.producer || "unknown", 100), `, opset ${shorten(model.opset, 60)}`]],
    ["inputs", (model) => model.inputs.map((input) => make("div", null, make("code", null, named(input, 160))))],
    ["outputs", (model) => model.outputs.map((output) => make("div", null, make("code", null, named(output, 160))))],
    ["preprocessing", (model) => [named(model.preprocessing, 300), originTag(model)]],
    [
      "part of each image seen",
      (model) =>
        model.seen.map(([data, sentence]) => make("div", null, named(data, 60), `: ${beginning(sentence, 2000)}`)),
    ],
    ["what they give", (model) => model.heads.map((head) => headText(model, head))],
    ["parameters", (model) => integer(model.parameters)],
    ["multiply-adds", (model) => (model.multiply_adds === null ? "unknown" : magnitude(model.multiply_adds))],
    ["class names", (model) => (model.labels ? integer(model.labels) : "none given")],
    ["agreement", agreementTag],
  ];
  if (run.models.some(trialAccuracy)) {
    const text = (/** @type {ModelCard} */ model) =>
      trialAccuracy(model) ? [named(model.tried?.data, 60), ": ", trialAccuracy(model)] : "not measured";
    lines.splice(-2, 0, ["right in the trial", text]);
  }
  return make(
    "div",
    { class: "scroll" },
    make(
      "table",
      { class: `model-facts models-${Math.min(run.models.length, 4)}` },
      several
        ? make(
            "thead",
            null,
            make(
              "tr",
              null,
              make("td"),
              run.models.map((model) => make("th", { scope: "col" }, modelChip(model.alias))),
            ),
          )
        : null,
      make(
        "tbody",
        null,
        lines.map(([name, value]) =>
          make(
            "tr",
            null,
            make("th", { scope: "row" }, name),
            run.models.map((model) => make("td", null, value(model))),
          ),
        ),
      ),
    ),
  );
}

/* What an output is, who says so, and whether that is a guess. */
/**
 * @param {ModelCard} model
 * @param {HeadRow} head
 */
function headText(model, head) {
  const known = head.source === "graph" || head.source === "declared";
  return make(
    "div",
    { class: "head" },
    model.heads.length > 1 ? [make("code", null, named(head.outputs.join(", "), 100)), ": "] : null,
    named(head.words, 200),
    make(
      "span",
      { class: "quiet-text" },
      " (",
      named(head.reason, 200),
      head.scores ? ["; scores: ", make("code", null, named(head.scores, 60))] : null,
      ")",
    ),
    known
      ? null
      : make(
          "div",
          null,
          make(
            "span",
            { class: "tag warn" },
            head.source === "nothing" ? "not declared: unknown" : "not declared: a guess",
          ),
        ),
    head.main && model.heads.length > 1
      ? make("div", { class: "quiet-text" }, "explained where an analysis names no other")
      : null,
  );
}

/**
 * How often the model was right in the trial: on other images than the analyses show, and those that the choice rests on.
 * @param {ModelCard} model
 */
function trialAccuracy(model) {
  const { tried } = model;
  if (!tried || tried.trials[0].top1 === null) return null;
  const percent = (/** @type {unknown} */ value) => formatNumber(value, "percent");
  return [
    percent(tried.trials[0].top1),
    ` (n = ${integer(tried.labelled)}`,
    tried.interval.length ? `; 95${THIN}% within ${spanText(tried.interval, percent)}` : null,
    ") of the images with a known class that were tried",
    tried.by_accuracy ? "; it was chosen for that, so other images may give less" : null,
  ];
}

/**
 * What was tried where a preprocessing was chosen by trial: how sure the choice is, and everything that it was among.
 * @param {ModelCard} model
 */
function triedText(model) {
  const tried = model.tried;
  if (!tried) return null;
  const ranked = tried.by_accuracy
    ? `by accuracy on the ${integer(tried.labelled)} with a known class`
    : "by how steady and how varied the classes are";
  const best = tried.trials[0];
  const head = make(
    "p",
    { class: "prose" },
    make("strong", null, "The preprocessing was chosen by trial, not declared. "),
    `${integer(tried.trials.length)} were tried on ${integer(tried.images)} of the ${plural(tried.found, "image")} of `,
    named(tried.data, 60),
    ` and ranked ${ranked}: `,
    beginning(tried.verdict, 2000),
    ".",
    best.top1 !== null ? [" The first is right on ", trialAccuracy(model), "."] : null,
    tried.doubts.filter((text) => !text.includes(tried.verdict)).map((text) => ` ${beginning(text, 2000)}`),
    tried.note ? ` Note: ${beginning(tried.note, 2000)}.` : null,
  );
  const accuracy = tried.by_accuracy
    ? [
        { head: "top-1", kind: "percent" },
        { head: "top-5", kind: "percent" },
      ]
    : [];
  const columns = [
    { head: "#", kind: "integer" },
    { head: "channels", kind: "text" },
    { head: "pixels become", kind: "text" },
    { head: "size by", kind: "text" },
    ...accuracy,
    { head: "steady", kind: "percent", description: "images whose mirror image and paler variant get the same class" },
    { head: "variety", kind: "number", description: "entropy in nats of the classes given; 0 if all get the same one" },
    {
      head: "by chance",
      kind: "number",
      description:
        "how probable it is that it is as good as the first: McNemar's test, or without known classes a bootstrap over the images",
    },
    { head: "alike", kind: "percent", description: "images that get the same class as with the first" },
  ];
  const rows = tried.trials.map((row, place) => [
    place + 1,
    row.channel_order,
    row.pixels,
    row.size_by,
    ...(tried.by_accuracy ? [row.top1, row.top5] : []),
    row.steady,
    row.variety,
    place ? row.chance : null,
    place ? row.alike : null,
  ]);
  return [
    head,
    details(`What was tried (${integer(rows.length)})`, "method", () =>
      dataTable(columns, rows, { label: "Preprocessings tried", key: 0 }),
    ),
  ];
}

/** @param {ModelCard} model */
function modelWarnings(model) {
  if (!model.refused_operators.length) return null;
  return make(
    "aside",
    { class: "caveats" },
    make("h4", null, "Operators that do not convert"),
    make(
      "ul",
      null,
      model.refused_operators
        .slice(0, 200)
        .map(([operator, where]) => make("li", null, make("code", null, named(operator, 60)), " ", named(where, 400))),
    ),
  );
}

/** @param {ModelCard} model */
function layerTable(model) {
  // The worse of a layer's references, as a share of what is allowed.
  /** @type {Map<string, Agreement>} */
  const agreement = new Map();
  const share = (/** @type {Agreement} */ row) => numeric(row.relative) / numeric(row.tolerance);
  for (const row of model.agreement) {
    const found = agreement.get(row.layer);
    if (!found || !(share(row) <= share(found))) {
      agreement.set(row.layer, row);
    }
  }
  const columns = [
    { head: "#", kind: "integer" },
    { head: "layer", kind: "text" },
    { head: "operator", kind: "text" },
    { head: "shape", kind: "text" },
    { head: "units", kind: "integer" },
    { head: "parameters", kind: "integer" },
    { head: "multiply-adds", kind: "integer" },
    { head: "receptive field", kind: "integer", description: "height × width in input pixels" },
    {
      head: "agreement",
      kind: "scientific",
      description:
        "largest relative difference from ONNX Runtime; of two references the one that is nearer to its tolerance",
    },
  ];
  const rows = model.layers.map((layer, place) => [
    place + 1,
    layer.name,
    layer.operator,
    layer.shape.map((size) => size ?? "any").join(" × "),
    layer.units,
    layer.parameters,
    layer.multiply_adds,
    layer.receptive_field ? layer.receptive_field[0] : null,
    agreement.get(layer.name)?.relative ?? null,
  ]);
  const cell = (/** @type {Row} */ row, /** @type {number} */ place) => {
    const { name, name_in_file: inFile } = model.layers[row[0] - 1];
    if (place === 1 && inFile) {
      return make("span", {}, name, " ", make("span", { class: "quiet-text", title: "the name in the file" }, inFile));
    }
    if (place === 7) {
      const field = model.layers[row[0] - 1].receptive_field;
      return field ? field.join(" × ") : make("span", { class: "quiet-text" }, "whole image");
    }
    if (place === 8) {
      const found = agreement.get(row[1]);
      return found
        ? make("span", { class: holds(found) ? null : "bad-text" }, formatNumber(found.relative, "scientific"))
        : make("span", { class: "none" }, "–");
    }
    return place === 6 ? magnitude(row[6]) : cellNode(row[place], columns[place].kind);
  };
  return dataTable(columns, rows, { label: "Layers", key: 1, cell });
}
