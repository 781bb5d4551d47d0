// How far the converted network and ONNX Runtime agree, and who is off where they do not.

import { several } from "./data.js";
import { details, make, named } from "./dom.js";
import { dataTable } from "./tables.js";
import { beginning, formatNumber, integer, numeric, plural, scientific, shorten } from "./text.js";

/**
 * NaN and infinity come as objects; neither is within a tolerance.
 * @param {Float | null | undefined} value
 * @param {Agreement} row
 */
function within(value, row) {
  const size = numeric(value ?? NaN);
  return Number.isFinite(size) && size <= numeric(row.tolerance);
}

/**
 * Whether both engines give the same.
 * @param {Agreement} row
 */
function agrees(row) {
  return within(row.relative, row);
}

/**
 * Whether the converted network is right: it agrees, or a third computation says that it is not the one that is off.
 * @param {Agreement} row
 */
export function holds(row) {
  return row.off === "runtime" || row.off === "neither" ? within(row.ours, row) : agrees(row);
}

/**
 * Rows of layers that ONNX Runtime computes wrongly, one for each layer.
 * @param {ModelCard} model
 */
function runtimeFaults(model) {
  /** @type {Map<string, Agreement>} */
  const found = new Map();
  for (const row of model.agreement) {
    if (row.off === "runtime" && holds(row) && !found.has(row.layer)) found.set(row.layer, row);
  }
  return [...found.values()];
}

/**
 * Who is off, and how that was found.
 * @param {Agreement} row
 */
function verdictText(row) {
  const by = (/** @type {Float} */ value) => scientific(numeric(value));
  /** @type {Partial<Record<Agreement["off"], string>>} */
  const words = {
    runtime: `ONNX Runtime is off by ${by(row.theirs)}, the converted network by ${by(row.ours)}`,
    ours: `the converted network is off by ${by(row.ours)}, ONNX Runtime by ${by(row.theirs)}`,
    both: `the converted network is off by ${by(row.ours)} and ONNX Runtime by ${by(row.theirs)}`,
    neither: `both are within the tolerance, off by ${by(row.ours)} and ${by(row.theirs)}`,
    unknown: "who is off could not be found",
  };
  const who = words[row.off];
  if (!who) return "";
  const place = row.origin && row.origin !== row.layer ? `; it arises at ${shorten(row.origin, 80)}` : "";
  return `${who}${place}${row.judged ? ` (${beginning(row.judged, 2000)})` : ""}`;
}

/** @param {{ agreement: Agreement[] }} model */
function worst(model) {
  return model.agreement.reduce(
    (/** @type {Agreement | null} */ found, row) =>
      found === null || !(numeric(row.relative) <= numeric(found.relative)) ? row : found,
    null,
  );
}

/**
 * Agreement holds a line for each layer and reference: the file as given, and the same network in float32.
 * @param {{ agreement: Agreement[] }} model
 * @param {string} reference
 */
function against(model, reference) {
  return model.agreement.filter((row) => (row.reference === "float32") === (reference === "float32"));
}

/** @param {Agreement[]} rows */
function layerCount(rows) {
  return new Set(rows.map((row) => row.layer)).size;
}

/**
 * The largest difference from each reference, null where there is none.
 * @param {{ agreement: Agreement[] }} model
 */
function references(model) {
  return ["file", "float32"].map((reference) => worst({ agreement: against(model, reference) }));
}

/**
 * A file in half precision or with quantized weights is allowed a larger difference than the same network in float32.
 * @param {Agreement | null} given
 * @param {Agreement | null} exact
 */
function coarser(given, exact) {
  return Boolean(given && exact && numeric(given.tolerance) > numeric(exact.tolerance));
}

/** @param {ModelCard} model */
export function agreementTag(model) {
  if (!model.agreement.length) return make("span", { class: "tag warn" }, "not compared with ONNX Runtime");
  const broken = model.agreement.filter((row) => !holds(row));
  const count = layerCount(broken);
  if (count) {
    return make(
      "span",
      { class: "tag bad" },
      `${plural(count, "layer")} ${count === 1 ? "differs" : "differ"} from ONNX Runtime`,
    );
  }
  const of = `${integer(layerCount(model.agreement))} of ${plural(model.layers.length, "layer")}`;
  const wrong = runtimeFaults(model).length;
  if (wrong) {
    return make(
      "span",
      { class: "tag warn" },
      `ONNX Runtime computes ${plural(wrong, "layer")} wrongly here; ${of} compared`,
    );
  }
  const [given, exact] = references({ agreement: model.agreement.filter(agrees) });
  const shown = given ?? exact;
  if (!shown) return make("span", { class: "tag good" }, `${of} right by a third computation`);
  const compared =
    layerCount(model.agreement) === 1
      ? "the 1 layer compared"
      : `all ${integer(layerCount(model.agreement))} layers compared`;
  const agreed = `${compared} of ${integer(model.layers.length)} ${agree(model)} with ONNX Runtime to`;
  const words = `${agreed} ${scientific(numeric(shown.relative))}${given ? "" : " in float32"}`;
  return make(
    "span",
    { class: "tag good" },
    words,
    exact && coarser(given, exact) ? `, to ${scientific(numeric(exact.relative))} in float32` : null,
    apart(model).length ? ", each from its own inputs" : null,
  );
}

/** @param {ModelCard} model */
function agree(model) {
  return layerCount(model.agreement) === 1 ? "agrees" : "agree";
}

/**
 * Layers of a quantised model, one row each, with how far both engines are apart when each computes all from the image.
 * @param {ModelCard} model
 */
function apart(model) {
  /** @type {Map<string, Agreement>} */
  const found = new Map();
  for (const row of model.agreement) {
    if (row.end_to_end !== null && row.end_to_end !== undefined && !found.has(row.layer)) found.set(row.layer, row);
  }
  return [...found.values()];
}

/**
 * Both figures of a quantised model: each layer by itself above, and here all of them in a row.
 * @param {ModelCard} model
 */
function apartText(model) {
  const rows = apart(model);
  if (!rows.length) return null;
  const sorted = rows.map((row) => numeric(row.end_to_end ?? NaN)).sort((a, b) => a - b);
  const median = (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
  const largest = rows.reduce((found, row) =>
    numeric(row.end_to_end ?? NaN) > numeric(found.end_to_end ?? NaN) ? row : found,
  );
  const order = new Map(model.layers.map((layer, place) => [layer.name, place]));
  const last = rows.reduce((found, row) =>
    (order.get(row.layer) ?? -1) >= (order.get(found.layer) ?? -1) ? row : found,
  );
  const share = (/** @type {number} */ value) => `${formatNumber(100 * value, "number")} %`;
  return make(
    "p",
    { class: "prose" },
    "This model rounds to integers on the way, so that figure is each layer's own, computed from ONNX Runtime's rounded values. From the image to the layer, as the analyses compute it, sums in another order now and then fall to the other side of a half, and the layers behind multiply that: of the ",
    `${plural(rows.length, "layer")} behind a rounding the two engines are apart by up to `,
    make("strong", null, share(sorted[sorted.length - 1])),
    " of the layer's largest value (",
    named(largest.layer, 100),
    "), ",
    make("strong", null, share(median)),
    " in the median, and ",
    make("strong", null, share(numeric(last.end_to_end ?? NaN))),
    " at the last of them, ",
    named(last.layer, 100),
    ". ",
    runtimeFaults(model).length
      ? "What ONNX Runtime computes wrongly lies in that too."
      : "No node is computed wrongly by either. Other numbers of threads and other processors make differences of that size too.",
  );
}

/**
 * What a reader must know of the processor that a model was compared on.
 * @param {ModelCard} model
 * @returns {Child}
 */
export function runtimeFaultText(model) {
  const rows = runtimeFaults(model);
  if (!rows.length) return null;
  const effect = rows.find((row) => row.effect)?.effect;
  const which = several ? [" of ", named(model.alias, 60)] : null;
  const what =
    rows.length === 1
      ? [named(rows[0].layer, 100), which, " wrongly: "]
      : [plural(rows.length, "layer"), which, " wrongly; the first is ", named(rows[0].layer, 100), ": "];
  return [
    "On this processor ONNX Runtime computes ",
    what,
    verdictText(rows[0]),
    effect ? `. Deployed with it, ${beginning(effect, 2000)}` : null,
    ". What is measured of these layers here comes from the converted network.",
  ];
}

/** @param {ModelCard} model */
export function agreementText(model) {
  if (!model.agreement.length) {
    return make("p", { class: "prose" }, "The converted network was not compared with ONNX Runtime in this run.");
  }
  const broken = model.agreement.filter((row) => !holds(row));
  const [given, exact] = references(model);
  const said = (/** @type {Agreement} */ row) => [
    make("strong", null, formatNumber(row.relative, "scientific")),
    " (",
    named(row.layer, 100),
    ", tolerance ",
    formatNumber(row.tolerance, "scientific"),
    ")",
  ];
  const count = layerCount(model.agreement);
  const head = make(
    "p",
    { class: "prose" },
    `On real input, ${count === model.layers.length ? "all " : ""}${integer(count)}${count === model.layers.length ? "" : ` of ${integer(model.layers.length)}`} layers were compared with ONNX Runtime. The largest difference, relative to the layer's largest activation, is `,
    given
      ? [
          said(given),
          exact ? " from the file as given" : null,
          coarser(given, exact) ? ", which rounds more coarsely than float32," : null,
          exact ? " and " : null,
        ]
      : null,
    exact ? [said(exact), " from the same network in float32"] : null,
    ".",
  );
  const quantised = apart(model).length > 0;
  const table = (/** @type {Agreement[]} */ rows) =>
    dataTable(
      [
        { head: "layer", kind: "text" },
        { head: "relative", kind: "scientific", description: "max |ours − theirs| / max |theirs|" },
        { head: "absolute", kind: "scientific" },
        { head: "tolerance", kind: "scientific" },
        { head: "compared with", kind: "text" },
        { head: "", kind: "text" },
        ...(quantised
          ? [
              {
                head: "from the image",
                kind: "scientific",
                description: "the same where both engines compute all from the image, roundings included",
              },
            ]
          : []),
      ],
      rows.map((/** @type {Agreement} */ row) => [
        row.layer,
        row.relative,
        row.absolute,
        row.tolerance,
        row.reference === "file" ? "the file as given" : "its float32 form",
        [agrees(row) ? "" : holds(row) ? "differs" : "does not agree", verdictText(row), row.note]
          .filter(Boolean)
          .join(". "),
        ...(quantised ? [row.end_to_end ?? null] : []),
      ]),
      {
        label: "Agreement with ONNX Runtime",
        rowClass: (row) => (String(row[5]).startsWith("does not agree") ? "bad-row" : null),
        key: 0,
      },
    );
  const fault = runtimeFaultText(model);
  return [
    head,
    apartText(model),
    fault ? make("aside", { class: "caveats" }, make("p", null, fault)) : null,
    broken.length
      ? make(
          "section",
          { class: "alert bad" },
          make("h4", null, `${plural(layerCount(broken), "layer")} NOT in agreement with ONNX Runtime`),
          table(broken),
        )
      : null,
    details("Agreement, layer by layer", "method", () => table(model.agreement)),
  ];
}
