// Words and numbers as the page shows them. Names come from model files, recipes and image folders.

const UNSEEN =
  /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;
const LONE = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;
const THIN = "\u202f";

// Characters that would hide or reorder their neighbours are written out.
function visible(text) {
  return String(text)
    .replace(LONE, "\ufffd")
    .replace(UNSEEN, (character) => {
      return `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
    });
}

function shorten(text, length) {
  const whole = String(text);
  if (whole.length <= length) return whole;
  const half = Math.floor((length - 1) / 2);
  return `${whole.slice(0, half)}…${whole.slice(-half)}`;
}

// A sentence keeps its beginning: its middle cut out would say something else.
function beginning(text, length) {
  const whole = String(text);
  if (whole.length <= length) return whole;
  const cut = whole.slice(0, length - 2);
  const end = cut.lastIndexOf(" ");
  return `${end > length / 2 ? cut.slice(0, end) : cut} …`;
}

// JSON has no NaN and no infinity: the run writes them as {"type": "float"}.
function numeric(value) {
  if (typeof value === "number") return value;
  if (value !== null && typeof value === "object" && value.type === "float") {
    if (value.value === "inf") return Infinity;
    if (value.value === "-inf") return -Infinity;
    return NaN;
  }
  return null;
}

function grouped(whole) {
  return whole.replace(/\B(?=(\d{3})+(?!\d))/g, THIN);
}

function integer(value) {
  return (value < 0 ? "−" : "") + grouped(Math.abs(Math.round(value)).toFixed(0));
}

function decimal(value, digits = 4) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e15 || size < 1e-4) return scientific(value);
  if (size >= 10 ** digits) return integer(value);
  const text = size.toPrecision(digits);
  const [whole, fraction = ""] = (text.includes("e") ? String(Number(text)) : text).split(".");
  const kept = fraction.replace(/0+$/, "");
  return (value < 0 ? "−" : "") + grouped(whole) + (kept ? `.${kept}` : "");
}

function scientific(value) {
  return value === 0 ? "0" : value.toExponential(1).replace(/-/g, "−").replace("e+", "e");
}

// `format` is a Metric's format or a Column's kind.
function formatNumber(given, format = "number") {
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

function formatDifference(value, format) {
  if (!Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const text = formatNumber(value, format).replace("%", "pp");
  return value > 0 ? `+${text}` : text;
}

function bytes(count) {
  const steps = ["bytes", "KiB", "MiB", "GiB"];
  let size = count;
  let step = 0;
  while (size >= 1024 && step < steps.length - 1) {
    size /= 1024;
    step += 1;
  }
  return `${step ? decimal(size, 3) : integer(size)} ${steps[step]}`;
}

function magnitude(count) {
  if (count === null || count === undefined) return "–";
  for (const [size, letter] of [
    [1e12, "T"],
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ]) {
    if (count >= size) return `${decimal(count / size, 3)}${THIN}${letter}`;
  }
  return integer(count);
}

function duration(seconds) {
  if (seconds < 60) return `${decimal(seconds, 2)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function moment(text) {
  const found = /^(\d{4}-\d{2}-\d{2})T(\d{2}:\d{2})/.exec(text);
  if (!found) return text;
  const zone = /(Z|[+-]\d{2}:?\d{2})$/.exec(text);
  const utc = zone && (zone[1] === "Z" || /^[+-]00/.test(zone[1]));
  return `${found[1]} ${found[2]}${zone ? (utc ? " UTC" : ` ${zone[1]}`) : ""}`;
}

function plural(count, one, many = `${one}s`) {
  return `${integer(count)} ${count === 1 ? one : many}`;
}

function deviceText(device) {
  return shorten(device, 80).replace(/\b1 threads\b/, "1 thread");
}

// A setting as YAML would write it on one line.
function settingText(value) {
  if (value === null) return "none";
  if (Array.isArray(value)) return value.length ? `[${value.map(settingText).join(", ")}]` : "[]";
  if (typeof value === "object") {
    return `{${Object.entries(value)
      .map(([key, item]) => `${key}: ${settingText(item)}`)
      .join(", ")}}`;
  }
  return typeof value === "number" ? String(value) : visible(value);
}
