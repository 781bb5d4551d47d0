// What to know before believing: one line each, the worst first, the rest folded.

import { alike, modelChip, run, several } from "./data.js";
import { details, make, prose } from "./dom.js";
import { integer } from "./text.js";

const LEVELS = ["wrong", "doubt", "limit"];

const MOST_CAVEATS = 6;

/**
 * What a caveat says in one line, its first sentence or what stands before a colon, and the rest; brackets stay whole.
 * @param {string} text
 * @returns {[string, string]}
 */
export function headOf(text) {
  let open = 0;
  for (const { 0: sign, index } of text.matchAll(/[()[\]]|[.:;](?=\s+\S)/g)) {
    if ("([".includes(sign)) open += 1;
    else if (")]".includes(sign)) open = Math.max(0, open - 1);
    else if (!open && index >= 30) {
      return [text.slice(0, sign === "." ? index + 1 : index), text.slice(index + 1).trimStart()];
    }
  }
  return [text, ""];
}

/**
 * Lines of { level, head, rest, where }: those that begin alike are one, with where each is said; the worst first. What
 * follows, if anything does, folds out.
 * @param {CaveatLine[]} lines
 */
export function caveatList(lines) {
  const items = alike(lines, (line) => (typeof line.head === "string" ? line.head : line))
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

/** @param {CaveatLine[]} lines */
function caveatLine(lines) {
  /** @type {Child[]} */
  const head = [typeof lines[0].head === "string" ? prose(lines[0].head) : lines[0].head];
  const sources = lines.flatMap((line) => line.where ?? []);
  if (sources.length) {
    head.push(
      " ",
      make(
        "span",
        { class: "quiet-text" },
        "(",
        sources.flatMap((place, number) => (number ? [", ", place()] : [place()])),
        ")",
      ),
    );
  }
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

/**
 * The lines of one analysis; `where` makes the node that leads to it, or is null inside it.
 * @param {Group<Caveat>[]} found
 * @param {(() => Child) | null} where
 * @returns {CaveatLine[]}
 */
export function caveatLines(found, where) {
  return found.map((group) => {
    const [head, rest] = headOf(group.entries[0].finding.text);
    const said = group.entries.map((entry) => entry.model);
    const chips =
      several && said.length < run.models.length
        ? () => said.map((model, number) => [number ? " " : "", modelChip(model)])
        : null;
    return {
      level: group.entries[0].finding.level,
      head,
      rest,
      where: where && chips ? () => [chips(), " ", where()] : (where ?? chips),
    };
  });
}

/** @param {Group<Caveat>[]} found */
export function caveatBox(found) {
  if (!found.length) return null;
  return make(
    "aside",
    { class: "caveats" },
    make("h4", null, "Know before believing"),
    caveatList(caveatLines(found, null)),
  );
}
