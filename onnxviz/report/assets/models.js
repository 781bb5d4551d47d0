// The models: files, preprocessing, agreement with ONNX Runtime, layers.

// NaN and infinity come as objects; neither is within a tolerance.
function within(value, row) {
  return Number.isFinite(numeric(value)) && numeric(value) <= numeric(row.tolerance);
}

// Whether both engines give the same.
function agrees(row) {
  return within(row.relative, row);
}

// Whether the converted network is right: it agrees, or a third computation says that it is not the one that is off.
function holds(row) {
  return row.off === "runtime" || row.off === "neither" ? within(row.ours, row) : agrees(row);
}

// Rows of layers that ONNX Runtime computes wrongly, one for each layer.
function runtimeFaults(model) {
  const found = new Map();
  for (const row of model.agreement)
    if (row.off === "runtime" && holds(row) && !found.has(row.layer)) found.set(row.layer, row);
  return [...found.values()];
}

// Who is off, and how that was found.
function verdictText(row) {
  const by = (value) => scientific(numeric(value));
  const who = {
    runtime: `ONNX Runtime is off by ${by(row.theirs)}, the converted network by ${by(row.ours)}`,
    ours: `the converted network is off by ${by(row.ours)}, ONNX Runtime by ${by(row.theirs)}`,
    both: `the converted network is off by ${by(row.ours)} and ONNX Runtime by ${by(row.theirs)}`,
    neither: `both are within the tolerance, off by ${by(row.ours)} and ${by(row.theirs)}`,
    unknown: "who is off could not be found",
  }[row.off];
  if (!who) return "";
  const place = row.origin && row.origin !== row.layer ? `; it arises at ${shorten(row.origin, 80)}` : "";
  return `${who}${place}${row.judged ? ` (${beginning(row.judged, 2000)})` : ""}`;
}

function worst(model) {
  return model.agreement.reduce(
    (found, row) => (found === null || !(numeric(row.relative) <= numeric(found.relative)) ? row : found),
    null,
  );
}

// Agreement holds a line for each layer and reference: the file as given, and the same network in float32.
function against(model, reference) {
  return model.agreement.filter((row) => (row.reference === "float32") === (reference === "float32"));
}

function layerCount(rows) {
  return new Set(rows.map((row) => row.layer)).size;
}

// The largest difference from each reference, null where there is none.
function references(model) {
  return ["file", "float32"].map((reference) => worst({ agreement: against(model, reference) }));
}

// A file in half precision or with quantized weights is allowed a larger difference than the same network in float32.
function coarser(given, exact) {
  return Boolean(given && exact && numeric(given.tolerance) > numeric(exact.tolerance));
}

function agreementTag(model) {
  if (!model.agreement.length) return make("span", { class: "tag warn" }, "not compared with ONNX Runtime");
  const broken = model.agreement.filter((row) => !holds(row));
  const count = layerCount(broken);
  if (count)
    return make(
      "span",
      { class: "tag bad" },
      `${plural(count, "layer")} ${count === 1 ? "differs" : "differ"} from ONNX Runtime`,
    );
  const of = `${integer(layerCount(model.agreement))} of ${plural(model.layers.length, "layer")}`;
  const wrong = runtimeFaults(model).length;
  if (wrong)
    return make(
      "span",
      { class: "tag warn" },
      `ONNX Runtime computes ${plural(wrong, "layer")} wrongly here; ${of} compared`,
    );
  const [given, exact] = references({ agreement: model.agreement.filter(agrees) });
  if (!given && !exact) return make("span", { class: "tag good" }, `${of} right by a third computation`);
  const compared =
    layerCount(model.agreement) === 1
      ? "the 1 layer compared"
      : `all ${integer(layerCount(model.agreement))} layers compared`;
  const agreed = `${compared} of ${integer(model.layers.length)} ${agree(model)} with ONNX Runtime to`;
  const words = given
    ? `${agreed} ${scientific(numeric(given.relative))}`
    : `${agreed} ${scientific(numeric(exact.relative))} in float32`;
  return make(
    "span",
    { class: "tag good" },
    words,
    coarser(given, exact) ? `, to ${scientific(numeric(exact.relative))} in float32` : null,
    apart(model).length ? ", each from its own inputs" : null,
  );
}

function agree(model) {
  return layerCount(model.agreement) === 1 ? "agrees" : "agree";
}

// Layers of a quantised model, one row each, with how far both engines are apart when each computes all from the image.
function apart(model) {
  const found = new Map();
  for (const row of model.agreement)
    if (row.end_to_end !== null && row.end_to_end !== undefined && !found.has(row.layer)) found.set(row.layer, row);
  return [...found.values()];
}

// Both figures of a quantised model: each layer by itself above, and here all of them in a row.
function apartText(model) {
  const rows = apart(model);
  if (!rows.length) return null;
  const sorted = rows.map((row) => numeric(row.end_to_end)).sort((a, b) => a - b);
  const median = (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
  const largest = rows.find((row) => numeric(row.end_to_end) === sorted[sorted.length - 1]);
  const order = new Map(model.layers.map((layer, place) => [layer.name, place]));
  const last = rows.reduce((found, row) =>
    (order.get(row.layer) ?? -1) >= (order.get(found.layer) ?? -1) ? row : found,
  );
  const share = (value) => `${formatNumber(100 * value, "number")} %`;
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
    make("strong", null, share(numeric(last.end_to_end))),
    " at the last of them, ",
    named(last.layer, 100),
    ". ",
    runtimeFaults(model).length
      ? "What ONNX Runtime computes wrongly lies in that too."
      : "No node is computed wrongly by either. Other numbers of threads and other processors make differences of that size too.",
  );
}

// What a reader must know of the processor that a model was compared on.
function runtimeFaultText(model) {
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

function modelsSection() {
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

function originTag(model) {
  const words = {
    trial: "chosen by trial, not declared",
    undecided: "not declared, and nothing was chosen",
    guess: "not declared: a guess",
  }[model.preprocessing_origin];
  return words ? make("div", null, make("span", { class: "tag warn" }, words)) : null;
}

function modelFacts() {
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
    ...(run.models.some(trialAccuracy)
      ? [
          [
            "right in the trial",
            (model) =>
              trialAccuracy(model) ? [trialAccuracy(model), ", data ", named(model.tried.data, 60)] : "not measured",
          ],
        ]
      : []),
    ["class names", (model) => (model.labels ? integer(model.labels) : "none given")],
    ["agreement", agreementTag],
  ];
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

function agreementText(model) {
  if (!model.agreement.length) {
    return make("p", { class: "prose" }, "The converted network was not compared with ONNX Runtime in this run.");
  }
  const broken = model.agreement.filter((row) => !holds(row));
  const [given, exact] = references(model);
  const said = (row) => [
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
  const table = (rows) =>
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
      rows.map((row) => [
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

// How often the model was right in the trial: on other images than the analyses show, and those that the choice rests on.
function trialAccuracy(model) {
  const { tried } = model;
  if (!tried || tried.trials[0].top1 === null) return null;
  const percent = (value) => formatNumber(value, "percent");
  return [
    percent(tried.trials[0].top1),
    ` (n = ${integer(tried.labelled)}`,
    tried.interval.length ? `; 95${THIN}% within ${spanText(tried.interval, percent)}` : null,
    ") of the images with a known class that were tried",
    tried.by_accuracy ? "; it was chosen for that, so other images may give less" : null,
  ];
}

// What was tried where a preprocessing was chosen by trial: how sure the choice is, and everything that it was among.
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

function layerTable(model) {
  // The worse of a layer's references, as a share of what is allowed.
  const agreement = new Map();
  for (const row of model.agreement) {
    const found = agreement.get(row.layer);
    if (!found || !(numeric(row.relative) / row.tolerance <= numeric(found.relative) / found.tolerance))
      agreement.set(row.layer, row);
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
  const cell = (row, place) => {
    const { name, name_in_file: inFile } = model.layers[row[0] - 1];
    if (place === 1 && inFile)
      return make("span", {}, name, " ", make("span", { class: "quiet-text", title: "the name in the file" }, inFile));
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
