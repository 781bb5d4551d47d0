// One section for each analysis; the findings of a section by type, models side by side.

const RENDERERS = new Map([
  ["TileGrid", gridFinding],
  ["PictureMatrix", matrixFinding],
  ["Curve", curveFinding],
  ["Bars", barsFinding],
  ["Histogram", histogramFinding],
  ["Table", tableFinding],
  ["Array", arrayFinding],
]);
// In a section pictures come first, then charts, then tables; within each in the analysis' own order.
const RANKS = new Map([
  ["TileGrid", 0],
  ["PictureMatrix", 0],
  ["Histogram", 1],
  ["Bars", 1],
  ["Curve", 1],
  ["Table", 2],
]);
const SHOWN_APART = new Set(["Note", "Metric", "Caveat", "Coverage", "Array"]);
// How the pictures of an analysis are read, in a sentence.
const READING = new Map([
  [
    "weights",
    "Each picture is one filter, a weight a square. Stripes and edges in black and white or in two colours look for outlines, blobs of colour for colours; a large one that looks like noise has learnt little.",
  ],
  [
    "activation_maximization",
    "Each picture began as noise, or as what is said beside it, and was changed step by step until it excites its unit or class most. Look for what repeats: eyes, feathers, textures. It is an exaggeration, not a photograph.",
  ],
  [
    "adversarial",
    "Left the picture, then the one that the network takes for something else, then what was changed, enlarged so that it can be seen. Where hardly anything had to be changed, the network relies on what nobody sees.",
  ],
  [
    "grad_cam",
    "Bright places speak for the class or number that is named, and raise its score. From left to right layer follows layer: the first ones see edges everywhere, the last ones, if the model is sound, the object itself.",
  ],
  [
    "dissection",
    "The outlined bright part of each picture is where the unit is strongly active. If it covers the same thing in every picture of a row, the unit detects that thing.",
  ],
]);

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

function ownFinding(group) {
  return group.entries.map(({ model, finding }) => [
    group.entries.length > 1 ? modelHeading(model) : null,
    fieldTable(finding, model),
  ]);
}

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

function metricBlock(analysis, entries) {
  if (!entries.length) return null;
  if (!several)
    return make(
      "dl",
      { class: "metrics" },
      entries.map((group) => metricCard(group.entries[0].finding)),
    );
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

function goodness(judged) {
  return { better: "good-text", worse: "bad-text" }[judged?.verdict] ?? "";
}

// Better or worse is said only of what chance hardly explains.
function verdictNode(judged, difference) {
  if (!judged || judged.verdict === "unknown")
    return judged?.reason ? make("div", { class: "quiet-text" }, prose(judged.reason)) : null;
  const word =
    judged.verdict === "none" ? (difference ? "no difference can be told" : "no difference") : judged.verdict;
  return [
    make("span", { class: "verdict-word" }, word),
    judged.reason ? make("div", { class: "quiet-text" }, prose(beginning(judged.reason, 2000))) : null,
  ];
}

function spanText(bounds, write) {
  const [low, high] = bounds.map(write);
  return low === high ? low : `${low} to ${high}`;
}

// What a number rests on: of how many, its interval, and what chance gives.
function basisText(metric) {
  const write = (value) => formatNumber(value, metric.format);
  const parts = [];
  if (metric.count !== null) parts.push(`${integer(metric.count)} of ${integer(metric.total)}`);
  else if (metric.total)
    parts.push(metric.format === "integer" ? `of ${integer(metric.total)}` : `n = ${integer(metric.total)}`);
  if (metric.interval.length) parts.push(`95${THIN}% within ${spanText(metric.interval, write)}`);
  if (metric.chance.length) parts.push(`by chance ${spanText(metric.chance, write)}`);
  return parts.join("; ");
}

function basisNode(metric) {
  const text = basisText(metric);
  return text ? make("div", { class: "basis" }, text) : null;
}

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

const LEVELS = ["wrong", "doubt", "limit"];
const MOST_CAVEATS = 6;

// What a caveat says in one line, its first sentence or what stands before a colon, and the rest; brackets stay whole.
function headOf(text) {
  let open = 0;
  for (const { 0: sign, index } of text.matchAll(/[()[\]]|[.:;](?=\s+\S)/g)) {
    if ("([".includes(sign)) open += 1;
    else if (")]".includes(sign)) open = Math.max(0, open - 1);
    else if (!open && index >= 30)
      return [text.slice(0, sign === "." ? index + 1 : index), text.slice(index + 1).trimStart()];
  }
  return [text, ""];
}

// Lines of { level, head, rest, where }: those that begin alike are one, with where each is said; the worst first. What
// follows, if anything does, folds out.
function caveatList(lines) {
  const same = new Map();
  for (const line of lines) {
    const key = typeof line.head === "string" ? line.head : line;
    if (!same.has(key)) same.set(key, []);
    same.get(key).push(line);
  }
  const items = [...same.values()]
    .sort((one, other) => LEVELS.indexOf(one[0].level) - LEVELS.indexOf(other[0].level))
    .map(caveatLine);
  return [
    make("ul", null, items.slice(0, MOST_CAVEATS)),
    items.length > MOST_CAVEATS
      ? details(`${integer(items.length - MOST_CAVEATS)} more`, "more-caveats", () =>
          make("ul", null, items.slice(MOST_CAVEATS)),
        )
      : null,
  ];
}

function caveatLine(lines) {
  const head = [typeof lines[0].head === "string" ? prose(lines[0].head) : lines[0].head];
  const places = lines.map((line) => line.where).filter(Boolean);
  if (places.length)
    head.push(
      " ",
      make(
        "span",
        { class: "quiet-text" },
        "(",
        places.flatMap((place, number) => (number ? [", ", place()] : [place()])),
        ")",
      ),
    );
  const rests = lines.filter((line) => line.rest);
  if (!rests.length) return make("li", null, head);
  const told = new Set(rests.map((line) => line.rest)).size === 1 ? rests.slice(0, 1) : rests;
  return make(
    "li",
    null,
    details(head, "caveat", () =>
      told.map((line) =>
        make(
          "p",
          null,
          prose(line.rest),
          told.length > 1 && line.where ? [" ", make("span", { class: "quiet-text" }, "(", line.where(), ")")] : null,
        ),
      ),
    ),
  );
}

// The lines of one analysis; `where` makes the node that leads to it, or is null inside it.
function caveatLines(found, where) {
  return found.map((group) => {
    const [head, rest] = headOf(group.entries[0].finding.text);
    const said = group.entries.map((entry) => entry.model);
    const chips =
      several && said.length < run.models.length ? () => said.map((model) => [modelChip(model), " "]) : null;
    return {
      level: group.entries[0].finding.level,
      head,
      rest,
      where: where && chips ? () => [chips(), where()] : (where ?? chips),
    };
  });
}

function caveatBox(found) {
  if (!found.length) return null;
  return make(
    "aside",
    { class: "caveats" },
    make("h4", null, "Know before believing"),
    caveatList(caveatLines(found, null)),
  );
}

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

// One line where all models were covered alike, else a line for each.
function coverageList(analysis) {
  return groups(analysis, (finding) => finding.type === "Coverage").flatMap(({ entries }) => {
    const [first] = entries;
    const alike = entries.every(({ finding }) =>
      ["done", "total", "reason"].every((name) => finding[name] === first.finding[name]),
    );
    if (alike && (!several || entries.length === run.models.length)) return [coverageLine([], first.finding)];
    return entries.map(({ model, finding }) => coverageLine([model], finding));
  });
}

function findingBlock(analysis, group, level = "h4") {
  const { finding } = group.entries[0];
  const draw = RENDERERS.get(group.type) ?? ownFinding;
  const [id, title, description] = ["id", "title", "description"].map((name) =>
    typeof finding[name] === "string" ? finding[name] : "",
  );
  const kind = group.type.split(".").pop();
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

function analysisSection(analysis) {
  const of = (type) => groups(analysis, (finding) => finding.type === type);
  const rank = ({ type }) => RANKS.get(type) ?? RANKS.size;
  const rest = groups(analysis, (finding) => !SHOWN_APART.has(finding.type)).sort(
    (one, other) => rank(one) - rank(other),
  );
  const reading = rest.length && RANKS.get(rest[0].type) === 0 ? READING.get(analysis.kind) : null;
  const heading = make("h3", { tabindex: "-1" }, named(analysis.title || analysis.id, 200));
  const notes = of("Note");
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
    notes.length ? make("ul", { class: "notes" }, notes.map(sentence)) : null,
    metricBlock(analysis, metrics),
    caveatBox(of("Caveat")),
    reading ? make("p", { class: "reading" }, make("strong", null, "How to read the pictures. "), reading) : null,
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
        `${plural(part.jobs, "job")}, ${integer(part.cached)} taken from the cache, ${duration(part.seconds)}. `,
      ]),
    ),
  );
}
