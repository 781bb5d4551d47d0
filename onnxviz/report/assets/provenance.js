// The data sets, and what is needed to make the report again.

import { places, run } from "./data.js";
import { button, details, make, named, paragraphs, route } from "./dom.js";
import { dataTable, factList } from "./tables.js";
import { deviceText, duration, integer, moment, numeric, plural, shorten } from "./text.js";

export function dataSection() {
  if (!run.data.length) return null;
  const section = make(
    "section",
    { class: "chapter" },
    make("h2", { tabindex: "-1" }, "The data"),
    run.data.map((data) =>
      make(
        "div",
        { class: "data-card" },
        make("h3", null, named(data.name, 100), " ", make("span", { class: "tag" }, named(data.kind, 40))),
        paragraphs(data.description),
        factList(
          [
            ["used", data.used],
            ["skipped", data.skipped.length],
            ["digest", shorten(data.digest, 23)],
          ],
          "facts wide-facts",
        ),
        (data.remarks || []).map((remark) => paragraphs(remark)),
        fileTable(data.skipped, "skipped, and why", "reason", "Skipped files"),
        fileTable(data.notes, "used, but not as it is", "what was done", "Changed files"),
      ),
    ),
  );
  places.set(route("data"), section);
  return section;
}

/**
 * Files with what is said of each, open where they are few.
 * @param {[string, string][]} rows
 * @param {string} what
 * @param {string} head
 * @param {string} label
 */
function fileTable(rows, what, head, label) {
  if (!rows.length) return null;
  const columns = ["file", head].map((text) => ({ head: text, kind: "text" }));
  const draw = () => dataTable(columns, rows, { label, key: 0 });
  return details(`${plural(rows.length, "file")} ${what}`, "method", draw, rows.length < 6);
}

/** @param {string} text */
function copyButton(text) {
  const node = button("Copy", "quiet", async () => {
    try {
      await navigator.clipboard.writeText(text);
      node.textContent = "Copied";
    } catch {
      const shown = node.closest(".recipe")?.querySelector("pre");
      if (!shown) return;
      getSelection()?.selectAllChildren(shown);
      node.textContent = "Selected: press Ctrl C";
    }
    setTimeout(() => {
      node.textContent = "Copy";
    }, 2500);
  });
  return node;
}

/**
 * @param {string} title
 * @param {string} text
 */
function codeBlock(title, text) {
  return make(
    "div",
    { class: "recipe" },
    make("div", { class: "recipe-head" }, make("h3", null, title), copyButton(text)),
    make("pre", { tabindex: "0" }, text),
  );
}

/**
 * What went wrong on the way and was mended, and what the processes that opened the models were kept from.
 * @param {string[] | undefined} events
 */
function happenings(events) {
  if (!events || !events.length) return null;
  return make(
    "aside",
    { class: "caveats" },
    make("h3", null, "On the way"),
    make(
      "ul",
      null,
      events.slice(0, 50).map((event) => make("li", null, named(event, 400))),
    ),
    events.length > 50
      ? make("p", { class: "quiet-text" }, `and ${integer(events.length - 50)} more, all in log.txt`)
      : null,
  );
}

/**
 * @param {[string, string][] | undefined} limits
 * @param {Defence[] | undefined} defences
 */
function confinementTable(limits, defences) {
  const rows = [
    ...(limits || []).map(([name, value]) => [name, value === "no limit" ? "not limited" : "limited", value]),
    ...(defences || []).map((defence) => [
      defence.name,
      defence.active ? "closed" : "open",
      defence.active ? defence.how : defence.reason,
    ]),
  ];
  if (!rows.length) return null;
  const open = (defences || []).some((defence) => !defence.active);
  return details(
    "What the processes that opened the models were kept from",
    "method",
    () =>
      dataTable(
        [
          { head: "what", kind: "text" },
          { head: "state", kind: "text" },
          { head: "by what, or why not", kind: "text" },
        ],
        rows,
        { label: "Confinement", key: 0 },
      ),
    open,
  );
}

export function provenanceSection() {
  const { seed, device, versions, started, seconds, jobs, cached, command, engine, limits, defences, events } =
    run.provenance;
  /** @type {[string, string][]} */
  const facts = [
    ["started", moment(started)],
    ["took", duration(numeric(seconds))],
    ["seed", String(seed)],
    ["device", deviceText(device)],
    ["jobs", `${integer(jobs)}, ${integer(cached)} taken from the cache`],
    ["done by", shorten(engine || "unknown", 120)],
    ...Object.entries(versions),
  ];
  const section = make(
    "section",
    { class: "chapter" },
    make("h2", { tabindex: "-1" }, "How to repeat this"),
    make(
      "p",
      { class: "prose" },
      "The same recipe, models, data, seed and versions give the same numbers and pictures.",
      run.repeat
        ? " The recipe, with every default filled in, lies in the run folder as recipe.lock.yaml, and its paths start there: run the command in that folder."
        : null,
    ),
    factList(facts, "facts wide-facts"),
    happenings(events),
    confinementTable(limits, defences),
    run.repeat ? codeBlock("Command, in the run folder", run.repeat) : null,
    run.recipe
      ? codeBlock(
          run.repeat ? "The recipe, recipe.lock.yaml in the run folder" : "The recipes, each of its own run folder",
          run.recipe,
        )
      : null,
    command ? codeBlock("What this run was started by", command) : null,
  );
  places.set(route("provenance"), section);
  return section;
}
