// Words and numbers as the page shows them. Names come from model files, recipes and image folders.

const UNSEEN =
  /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;
export const LONE = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;
export const THIN = "\u202f";

/**
 * Characters that would hide or reorder their neighbours are written out.
 * @param {unknown} text
 */
export function visible(text) {
  return String(text)
    .replace(LONE, "\ufffd")
    .replace(UNSEEN, (character) => {
      return `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
    });
}

/**
 * @param {unknown} text
 * @param {number} length
 */
export function shorten(text, length) {
  const whole = String(text);
  if (whole.length <= length) return whole;
  const half = Math.floor((length - 1) / 2);
  return `${whole.slice(0, half)}…${whole.slice(-half)}`;
}

/**
 * A sentence keeps its beginning: its middle cut out would say something else.
 * @param {unknown} text
 * @param {number} length
 */
export function beginning(text, length) {
  const whole = String(text);
  if (whole.length <= length) return whole;
  const cut = whole.slice(0, length - 2);
  const end = cut.lastIndexOf(" ");
  return `${end > length / 2 ? cut.slice(0, end) : cut} …`;
}

/**
 * JSON has no NaN and no infinity: the run writes them as {"type": "float"}.
 * @overload
 * @param {Float} value
 * @returns {number}
 *
 * @overload
 * @param {any} value
 * @returns {number | null}
 *
 * @param {any} value
 */
export function numeric(value) {
  if (typeof value === "number") return value;
  if (value !== null && typeof value === "object" && value.type === "float") {
    if (value.value === "inf") return Infinity;
    if (value.value === "-inf") return -Infinity;
    return NaN;
  }
  return null;
}

/** @param {string} whole */
function grouped(whole) {
  return whole.replace(/\B(?=(\d{3})+(?!\d))/g, THIN);
}

/** @param {number} value */
export function integer(value) {
  return (value < 0 ? "−" : "") + grouped(Math.abs(Math.round(value)).toFixed(0));
}

/**
 * @param {number} value
 * @param {number} [digits]
 */
export function decimal(value, digits = 4) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e15 || size < 1e-4) return scientific(value);
  if (size >= 10 ** digits) return integer(value);
  const text = size.toPrecision(digits);
  const [whole, fraction = ""] = (text.includes("e") ? String(Number(text)) : text).split(".");
  const kept = fraction.replace(/0+$/, "");
  return (value < 0 ? "−" : "") + grouped(whole) + (kept ? `.${kept}` : "");
}

/** @param {number} value */
export function scientific(value) {
  return value === 0 ? "0" : value.toExponential(1).replace(/-/g, "−").replace("e+", "e");
}

/**
 * `format` is a Metric's format or a Column's kind.
 * @param {unknown} given
 * @param {string} [format]
 */
export function formatNumber(given, format = "number") {
  const value = numeric(given);
  if (value === null) return "–";
  if (Number.isNaN(value)) return "not a number";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (format === "integer") return Number.isInteger(value) ? integer(value) : decimal(value);
  if (format === "percent") {
    // All is said of all only.
    const text = decimal(100 * value, 3);
    return `${text === "100" && value < 1 ? ">99.9" : text}${THIN}%`;
  }
  if (format === "scientific") return scientific(value);
  return Number.isInteger(value) && Math.abs(value) < 1e15 ? integer(value) : decimal(value);
}

/**
 * @param {number} value
 * @param {string} format
 */
export function formatDifference(value, format) {
  if (!Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const text = formatNumber(value, format).replace("%", "pp");
  return value > 0 ? `+${text}` : text;
}

/** @param {number} count */
export function bytes(count) {
  const steps = ["bytes", "KiB", "MiB", "GiB"];
  let size = count;
  let step = 0;
  while (size >= 1024 && step < steps.length - 1) {
    size /= 1024;
    step += 1;
  }
  return `${step ? decimal(size, 3) : integer(size)} ${steps[step]}`;
}

/** @param {number | null | undefined} count */
export function magnitude(count) {
  if (count === null || count === undefined) return "–";
  for (const [letter, size] of Object.entries({ T: 1e12, G: 1e9, M: 1e6, k: 1e3 })) {
    if (count >= size) return `${decimal(count / size, 3)}${THIN}${letter}`;
  }
  return integer(count);
}

/** @param {number} seconds */
export function duration(seconds) {
  if (seconds < 60) return `${decimal(seconds, 2)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** @param {string} text */
export function moment(text) {
  const found = /^(\d{4}-\d{2}-\d{2})T(\d{2}:\d{2})/.exec(text);
  if (!found) return text;
  const zone = /(Z|[+-]\d{2}:?\d{2})$/.exec(text);
  const utc = zone && (zone[1] === "Z" || /^[+-]00/.test(zone[1]));
  return `${found[1]} ${found[2]}${zone ? (utc ? " UTC" : ` ${zone[1]}`) : ""}`;
}

/**
 * @param {number} count
 * @param {string} one
 * @param {string} [many]
 */
export function plural(count, one, many = `${one}s`) {
  return `${integer(count)} ${count === 1 ? one : many}`;
}

/** @param {string} device */
export function deviceText(device) {
  return shorten(device, 80).replace(/\b1 threads\b/, "1 thread");
}

/**
 * A setting as YAML would write it on one line.
 * @param {any} value
 * @returns {string}
 */
export function settingText(value) {
  if (value === null) return "none";
  if (Array.isArray(value)) return value.length ? `[${value.map(settingText).join(", ")}]` : "[]";
  if (typeof value === "object") {
    return `{${Object.entries(value)
      .map(([key, item]) => `${key}: ${settingText(item)}`)
      .join(", ")}}`;
  }
  return typeof value === "number" ? String(value) : visible(value);
}
