// Charts as SVG: one common axis for all models, a colour for each model, and the numbers on request.

import { modelClass, several } from "./data.js";
import { details, make, makeSvg, named, paged, responsive } from "./dom.js";
import { spanText } from "./metrics.js";
import { dataTable } from "./tables.js";
import { beginning, decimal, formatNumber, numeric, shorten, visible } from "./text.js";

const CHART_HEIGHT = 280;

/**
 * @param {number} low
 * @param {number} high
 * @param {number} wanted
 */
function niceTicks(low, high, wanted) {
  const rough = (high - low) / Math.max(1, wanted);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5].map((factor) => factor * power).find((size) => size >= rough * 0.999) ?? 10 * power;
  const ticks = [];
  for (let place = Math.ceil(low / step - 1e-9); place * step <= high + step * 1e-9; place += 1) {
    ticks.push(place * step);
  }
  return ticks;
}

/**
 * @param {number[]} values
 * @returns {[number, number]}
 */
function span(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (Number.isFinite(value)) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  if (low > high) return [0, 1];
  return low === high ? [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2] : [low, high];
}

/**
 * The frame of a chart: axes, grid, labels. Returns the SVG and the two scales.
 * @param {number} width
 * @param {[number, number]} xs
 * @param {[number, number]} ys
 * @param {{ title: string, x: string }} labels
 */
function frame(width, xs, ys, labels) {
  const [left, right, top, bottom] = [56, 12, 12, labels.x ? 46 : 30];
  const yTicks = niceTicks(ys[0], ys[1], 5);
  const xTicks = niceTicks(xs[0], xs[1], Math.max(2, Math.floor(width / 100)));
  const x = (/** @type {number} */ value) => left + ((value - xs[0]) / (xs[1] - xs[0])) * (width - left - right);
  const y = (/** @type {number} */ value) =>
    CHART_HEIGHT - bottom - ((value - ys[0]) / (ys[1] - ys[0])) * (CHART_HEIGHT - top - bottom);
  const svg = makeSvg("svg", {
    viewBox: `0 0 ${width} ${CHART_HEIGHT}`,
    width,
    height: CHART_HEIGHT,
    role: "img",
    class: "chart",
    "aria-label": shorten(labels.title, 300),
  });
  for (const tick of yTicks) {
    svg.append(
      makeSvg("line", { class: "grid-line", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }),
      makeSvg("text", { class: "tick", x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, axisNumber(tick, ys)),
    );
  }
  for (const tick of xTicks) {
    svg.append(
      makeSvg("line", {
        class: "tick-line",
        x1: x(tick),
        x2: x(tick),
        y1: CHART_HEIGHT - bottom,
        y2: CHART_HEIGHT - bottom + 5,
      }),
      makeSvg(
        "text",
        { class: "tick", x: x(tick), y: CHART_HEIGHT - bottom + 18, "text-anchor": "middle" },
        axisNumber(tick, xs),
      ),
    );
  }
  svg.append(
    makeSvg("line", {
      class: "axis",
      x1: left,
      x2: width - right,
      y1: CHART_HEIGHT - bottom,
      y2: CHART_HEIGHT - bottom,
    }),
  );
  if (labels.x) {
    svg.append(
      makeSvg(
        "text",
        { class: "axis-label", x: (left + width - right) / 2, y: CHART_HEIGHT - 6, "text-anchor": "middle" },
        shorten(labels.x, Math.floor(width / 8)),
      ),
    );
  }
  return { svg, x, y, base: CHART_HEIGHT - bottom, left, right: width - right, top };
}

/**
 * @param {number} value
 * @param {[number, number]} range
 */
function axisNumber(value, [low, high]) {
  return Math.abs(value) < (high - low) * 1e-9 ? "0" : decimal(value, 4);
}

/**
 * @param {string} model
 * @param {number} number
 * @param {number} count
 */
function lineClass(model, number, count) {
  if (several) return `${modelClass(model)} dash-${number % 4}`;
  return count > 1 ? `model-${number % 6} dash-${Math.floor(number / 6) % 4}` : "model-0";
}

/** @param {{ model: string, name: string, className: string }[]} lines */
function legend(lines) {
  return make(
    "ul",
    { class: "legend" },
    lines.map((line) =>
      make(
        "li",
        { class: line.className },
        makeSvg(
          "svg",
          { width: 26, height: 10, "aria-hidden": "true" },
          makeSvg("line", { class: "line", x1: 1, x2: 25, y1: 5, y2: 5 }),
        ),
        several ? [named(line.model, 40), line.name ? [" · ", named(line.name, 60)] : null] : named(line.name, 60),
      ),
    ),
  );
}

/** @param {Group<Curve>} group */
export function curveFinding(group) {
  const { finding: first } = group.entries[0];
  /** @type {Map<string, number>} */
  const numbers = new Map();
  const found = group.entries.flatMap(({ model, finding }) =>
    finding.series.map((series) => {
      if (!numbers.has(series.name)) numbers.set(series.name, numbers.size);
      return {
        model,
        name: series.name,
        xs: series.xs.map((value) => numeric(value)),
        ys: series.ys.map((value) => numeric(value)),
      };
    }),
  );
  const lines = found.map((line) => ({
    ...line,
    className: lineClass(line.model, numbers.get(line.name) ?? 0, numbers.size),
  }));
  const xs = span(lines.flatMap((line) => line.xs));
  const ys = span(lines.flatMap((line) => line.ys));
  const room = (ys[1] - ys[0]) * 0.04;
  /** @type {[number, number]} */
  const range = [ys[0] === 0 ? 0 : ys[0] - room, ys[1] + room];
  const draw = (/** @type {number} */ width) => {
    const chart = frame(width, xs, range, { title: first.title, x: first.x_label });
    for (const line of lines) {
      chart.svg.append(makeSvg("path", { class: `line ${line.className}`, d: pathOf(line, chart) }));
      if (line.xs.length === 1) {
        chart.svg.append(
          makeSvg("circle", {
            class: `dot ${line.className}`,
            cx: chart.x(line.xs[0]),
            cy: chart.y(line.ys[0]),
            r: 3.5,
          }),
        );
      }
    }
    return make("div", null, readout(chart, lines, xs));
  };
  const table = () =>
    dataTable(
      [
        ...(several ? [{ head: "model", kind: "text" }] : []),
        { head: "series", kind: "text" },
        { head: first.x_label || "x", kind: "number" },
        { head: first.y_label || "y", kind: "number" },
      ],
      lines.flatMap((line) =>
        line.xs.map((x, place) => [...(several ? [line.model] : []), line.name, x, line.ys[place]]),
      ),
      { label: first.title },
    );
  return chartBlock(first, draw, lines.length > 1 || several ? legend(lines) : null, table);
}

/**
 * @param {Points} line
 * @param {Scales} chart
 */
function pathOf(line, chart) {
  let path = "";
  let pen = false;
  line.xs.forEach((x, place) => {
    const y = line.ys[place];
    if (!Number.isFinite(x) || !Number.isFinite(y)) {
      pen = false;
      return;
    }
    path += `${pen ? "L" : "M"}${chart.x(x).toFixed(1)} ${chart.y(y).toFixed(1)}`;
    pen = true;
  });
  return path;
}

/**
 * Under the pointer: a line through the chart and every series' value there.
 * @param {ReturnType<typeof frame>} chart
 * @param {Line[]} lines
 * @param {[number, number]} xs
 */
function readout(chart, lines, xs) {
  const text = make("p", { class: "readout", "aria-hidden": "true" }, "\u00a0");
  const rule = makeSvg("line", { class: "rule", y1: chart.top, y2: chart.base, visibility: "hidden" });
  chart.svg.append(rule);
  chart.svg.addEventListener("pointermove", (event) => {
    const box = chart.svg.getBoundingClientRect();
    const at = event.clientX - box.left;
    const value = xs[0] + ((at - chart.left) / (chart.right - chart.left)) * (xs[1] - xs[0]);
    if (value < xs[0] || value > xs[1]) return;
    rule.setAttribute("x1", String(at));
    rule.setAttribute("x2", String(at));
    rule.setAttribute("visibility", "visible");
    const parts = lines.slice(0, 8).map((line) => {
      let nearest = 0;
      line.xs.forEach((x, place) => {
        if (Math.abs(x - value) < Math.abs(line.xs[nearest] - value)) nearest = place;
      });
      return `${shorten([several ? line.model : "", line.name].filter(Boolean).join(" · "), 40)} ${formatNumber(line.ys[nearest])}`;
    });
    text.textContent = visible(`${formatNumber(value)}:  ${parts.join("   ")}`);
  });
  chart.svg.addEventListener("pointerleave", () => rule.setAttribute("visibility", "hidden"));
  return [chart.svg, text];
}

/** @param {Group<Histogram>} group */
export function histogramFinding(group) {
  const { finding: first } = group.entries[0];
  const found = group.entries.map(({ model, finding }) => ({
    model,
    name: "",
    className: several ? modelClass(model) : "model-0",
    edges: finding.edges.map((value) => numeric(value)),
    counts: finding.counts.map((value) => numeric(value)),
  }));
  const edges = JSON.stringify(found[0].edges);
  const share = found.length > 1 && !found.every((shape) => JSON.stringify(shape.edges) === edges);
  const shapes = found.map((shape) => {
    const total = shape.counts.reduce((sum, count) => sum + (count || 0), 0) || 1;
    const heights = shape.counts.map((count, place) =>
      share ? count / total / (shape.edges[place + 1] - shape.edges[place]) : count,
    );
    return { ...shape, heights };
  });
  const xs = span(shapes.flatMap((shape) => shape.edges));
  /** @type {[number, number]} */
  const ys = [0, span(shapes.flatMap((shape) => shape.heights).concat(0))[1] * 1.04];
  const draw = (/** @type {number} */ width) => {
    const chart = frame(width, xs, ys, { title: first.title, x: first.x_label });
    for (const shape of shapes) {
      let path = `M${chart.x(shape.edges[0])} ${chart.base}`;
      shape.heights.forEach((height, place) => {
        const level = chart.y(Number.isFinite(height) ? height : 0).toFixed(1);
        path += `L${chart.x(shape.edges[place]).toFixed(1)} ${level}L${chart.x(shape.edges[place + 1]).toFixed(1)} ${level}`;
      });
      path += `L${chart.x(shape.edges[shape.edges.length - 1])} ${chart.base}`;
      chart.svg.append(
        makeSvg("path", { class: `area ${shape.className}`, d: `${path}Z` }),
        makeSvg("path", { class: `line ${shape.className}`, d: path }),
      );
    }
    return chart.svg;
  };
  const label = share ? "share for each unit of the axis, because the bins differ" : first.y_label;
  const table = () =>
    dataTable(
      [
        ...(several ? [{ head: "model", kind: "text" }] : []),
        { head: "from", kind: "number" },
        { head: "to", kind: "number" },
        { head: first.y_label || "count", kind: "number" },
      ],
      shapes.flatMap((shape) =>
        shape.counts.map((count, place) => [
          ...(several ? [shape.model] : []),
          shape.edges[place],
          shape.edges[place + 1],
          count,
        ]),
      ),
      { label: first.title },
    );
  return chartBlock({ ...first, y_label: label }, draw, several ? legend(shapes) : null, table);
}

/**
 * @param {{ y_label: string }} finding
 * @param {(width: number) => Node} draw
 * @param {Child} key
 * @param {() => Child} table
 */
function chartBlock(finding, draw, key, table) {
  return make(
    "div",
    { class: "chart-block" },
    finding.y_label ? make("p", { class: "y-label" }, beginning(finding.y_label, 500)) : null,
    responsive("chart-room", draw),
    key,
    details("Show the numbers", "numbers", table),
  );
}

/**
 * Bars lie down, so that long names can be read; every bar has its number.
 * @param {Group<Bars>} group
 */
export function barsFinding(group) {
  const { finding: first } = group.entries[0];
  /** @type {Map<string, BarEntry[]>} */
  const categories = new Map();
  group.entries.forEach(({ model, finding }) =>
    finding.categories.forEach((category, place) => {
      const entry = { model, value: numeric(finding.values[place]), chance: finding.chance[place] ?? null };
      categories.set(category, [...(categories.get(category) ?? []), entry]);
    }),
  );
  const values = [...categories.values()]
    .flat()
    .map((entry) => entry.value)
    .filter(Number.isFinite);
  const low = Math.min(0, ...values);
  const high = Math.max(0, ...values);
  const reach = high - low || 1;
  const bar = (/** @type {BarEntry} */ { model, value, chance }) => {
    const node = make("span", { class: `bar ${several ? modelClass(model) : "model-0"}` });
    const finite = Number.isFinite(value) ? value : 0;
    node.style.setProperty("margin-inline-start", `${(100 * (Math.min(0, finite) - low)) / reach}%`);
    node.style.setProperty("width", `${(100 * Math.abs(finite)) / reach}%`);
    return make(
      "span",
      { class: "bar-line" },
      make("span", { class: "bar-room" }, node),
      make(
        "span",
        { class: "bar-value" },
        several ? make("span", { class: "unseen" }, named(model, 40), " ") : null,
        formatNumber(value),
        chance ? make("span", { class: "quiet-text" }, ` (by chance ${spanText(chance, formatNumber)})`) : null,
      ),
    );
  };
  const rows = [...categories].map(([category, entries]) =>
    make(
      "li",
      null,
      make("span", { class: "bar-name" }, named(category, 80)),
      make("span", { class: "bar-lines" }, entries.map(bar)),
    ),
  );
  const list = paged(
    rows,
    rows.length > 40 ? 30 : 40,
    (shown) => make("ul", { class: `bar-list${first.chance.length ? " with-chance" : ""}` }, shown),
    "bars",
  );
  return make(
    "div",
    { class: "chart-block" },
    first.y_label ? make("p", { class: "y-label" }, beginning(first.y_label, 500)) : null,
    list,
    several ? legend(group.entries.map(({ model }) => ({ model, name: "", className: modelClass(model) }))) : null,
  );
}

/**
 * @param {Float[]} values
 * @param {string} title
 * @param {string | undefined} model
 */
export function sparkline(values, title, model) {
  const numbers = values.map((value) => numeric(value));
  if (numbers.length < 2) return null;
  const [low, high] = span(numbers);
  const line = { xs: numbers.map((_, place) => place), ys: numbers };
  const chart = {
    x: (/** @type {number} */ value) => 2 + (value / (numbers.length - 1)) * 116,
    y: (/** @type {number} */ value) => 25 - ((value - low) / (high - low)) * 22,
  };
  const finite = numbers.filter(Number.isFinite);
  const words = finite.length
    ? `${title || "curve"}: from ${formatNumber(finite[0])} to ${formatNumber(finite[finite.length - 1])}`
    : title || "curve";
  return makeSvg(
    "svg",
    {
      class: "spark",
      viewBox: "0 0 120 28",
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": beginning(words, 500),
    },
    makeSvg("title", null, beginning(words, 500)),
    makeSvg("path", { class: `line ${model ? modelClass(model) : "model-0"}`, d: pathOf(line, chart) }),
  );
}
