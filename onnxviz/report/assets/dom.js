// Every node of the page is made here. Text becomes text nodes; attributes have constant names.

import { beginning, formatNumber, integer, LONE, numeric, shorten, visible } from "./text.js";

const SVG = "http://www.w3.org/2000/svg";

/** @param {string} id */
export function required(id) {
  const node = document.getElementById(id);
  if (!node) throw new Error(`the page has no ${id}`);
  return node;
}

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Attributes | null} [attributes]
 * @param {...Child} children
 */
export function make(tag, attributes = null, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/**
 * @template {keyof SVGElementTagNameMap} K
 * @param {K} tag
 * @param {Attributes | null} [attributes]
 * @param {...Child} children
 */
export function makeSvg(tag, attributes = null, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/**
 * @template {Element} E
 * @param {E} node
 * @param {Attributes | null} attributes
 * @param {Child[]} children
 */
function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (/^(on.*|style|srcdoc)$/i.test(name)) throw new Error(`no attribute ${name} here`);
    node.setAttribute(name, value === true ? "" : visible(value));
  }
  addTo(node, children);
  return node;
}

/**
 * @param {Element} node
 * @param {Child[]} children
 */
export function addTo(node, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) addTo(node, child);
    else node.append(child instanceof Node ? child : visible(child));
  }
}

/**
 * A name from outside: kept apart from its neighbours' writing direction, breakable, its middle cut if it is endless.
 * @param {unknown} text
 * @param {number} [length]
 */
export function named(text, length = 160) {
  const whole = String(text);
  const node = make("bdi", { class: "name", title: whole.length > length ? shorten(whole, 2000) : null });
  breakable(shorten(whole, length)).forEach((piece, place) => {
    if (place) node.append(make("wbr"));
    node.append(visible(piece));
  });
  return node;
}

/**
 * Where a name may go on in the next line: behind its slashes and colons; inside a part only where that is long. A
 * unit's number stays with the end of its layer's name.
 * @param {string} text
 */
function breakable(text) {
  return text
    .split(/(?<=[/·])|(?<=:)(?!\d)/)
    .flatMap((part) => (part.length > 20 ? part.split(/(?<=[_-])(?=[^_.-]{3})|(?<=\.)(?=[A-Za-z]{3})/) : [part]));
}

/**
 * A sentence in which `words between backticks` are code.
 * @param {unknown} text
 */
export function prose(text) {
  return String(text)
    .split(/`([^`\n]{1,200})`/)
    .map((part, place) => (place % 2 ? make("code", null, part) : part));
}

/**
 * @param {unknown} text
 * @param {string} [className]
 */
export function paragraphs(text, className = "prose") {
  const parts = String(text ?? "")
    .split(/\n\s*\n/)
    .map((part) => part.trim())
    .filter(Boolean);
  return parts.map((part) => make("p", { class: className }, prose(beginning(part.replace(/\s*\n\s*/g, " "), 5000))));
}

/**
 * @param {Child} label
 * @param {string} className
 * @param {(event: MouseEvent) => void} action
 * @param {Attributes | null} [attributes]
 */
export function button(label, className, action, attributes = null) {
  const node = make("button", { type: "button", class: className, ...attributes }, label);
  node.addEventListener("click", action);
  return node;
}

/**
 * `address` is a fragment that `route` made or a name that Python made: never text from outside.
 * @param {string} address
 * @param {...Child} children
 */
export function link(address, ...children) {
  if (!/^(#\/|assets\/[0-9a-f]{20}\.npz$)/.test(address)) throw new Error("no such address");
  return make("a", { href: address }, ...children);
}

/** @param {...(string | number)} parts */
export function route(...parts) {
  return `#/${parts.map((part) => encodeURIComponent(String(part).replace(LONE, "\ufffd"))).join("/")}`;
}

/**
 * @param {Unit} unit
 * @param {boolean} [withLayer]
 */
function unitLink(unit, withLayer = true) {
  const label = withLayer ? [named(unit.layer, 60), `\u00a0:\u00a0${unit.index}`] : [String(unit.index)];
  return link(route("unit", unit.layer, unit.index), ...label);
}

/**
 * @param {any} value
 * @returns {value is Unit}
 */
export function isUnit(value) {
  return value !== null && typeof value === "object" && value.type === "Unit";
}

/**
 * @param {Cell | undefined} value
 * @param {string} [kind]
 */
export function cellNode(value, kind = "text") {
  if (isUnit(value)) return unitLink(value);
  if (value === null || value === undefined) return make("span", { class: "none" }, "–");
  if (value === true) return "yes";
  if (value === false) return "no";
  const number = numeric(value);
  if (number !== null) {
    return Number.isNaN(number)
      ? make("span", { class: "bad-text" }, formatNumber(number))
      : formatNumber(number, kind);
  }
  return named(value, 140);
}

/** @param {Cell | undefined} value */
export function cellText(value) {
  if (isUnit(value)) return `${value.layer}:${value.index}`;
  return value === null || value === undefined ? "" : String(numeric(value) ?? value);
}

/**
 * @param {Child} summary
 * @param {string} className
 * @param {() => Child} draw
 * @param {boolean} [open]
 */
export function details(summary, className, draw, open = false) {
  const node = make("details", { class: className }, make("summary", null, summary));
  let drawn = false;
  const show = () => {
    if (drawn || !node.open) return;
    drawn = true;
    addTo(node, [draw()]);
  };
  node.addEventListener("toggle", show);
  node.open = open;
  show();
  return node;
}

/**
 * Calls `draw(width)` now and whenever the width has changed, so that text in charts keeps its size.
 * @param {string} className
 * @param {(width: number) => Node} draw
 */
export function responsive(className, draw) {
  const node = make("div", { class: className });
  let last = 0;
  new ResizeObserver(() => {
    const width = Math.floor(node.clientWidth);
    if (width < 40 || Math.abs(width - last) < 8) return;
    last = width;
    requestAnimationFrame(() => node.replaceChildren(draw(width)));
  }).observe(node);
  return node;
}

/**
 * Shows one page of many items: `draw(items)` makes the content.
 * @template T
 * @param {T[]} items
 * @param {number} size
 * @param {(items: T[], from: number) => Node} draw
 * @param {string} what
 */
export function paged(items, size, draw, what) {
  const body = make("div", { class: "page" });
  const where = make("span", { class: "where", "aria-live": "polite" });
  let page = 0;
  const show = (/** @type {number} */ next, /** @type {boolean} */ scroll) => {
    page = Math.max(0, Math.min(next, Math.ceil(items.length / size) - 1));
    const from = page * size;
    body.replaceChildren(draw(items.slice(from, from + size), from));
    where.textContent = `${integer(from + 1)} to ${integer(Math.min(from + size, items.length))} of ${integer(items.length)} ${what}`;
    back.disabled = page === 0;
    forward.disabled = from + size >= items.length;
    if (scroll) node.scrollIntoView({ block: "nearest" });
  };
  const back = button("← Previous", "quiet", () => show(page - 1, true));
  const forward = button("Next →", "quiet", () => show(page + 1, true));
  const node = make("div", { class: "paged" }, body);
  if (items.length > size) node.append(make("div", { class: "pager" }, back, where, forward));
  show(0, false);
  return node;
}
