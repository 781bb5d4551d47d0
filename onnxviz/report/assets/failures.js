// Jobs that failed.

import { alike, modelChip, several } from "./data.js";
import { details, make, named } from "./dom.js";
import { beginning, plural } from "./text.js";

/**
 * Jobs that failed for the same reason stand together; the first reasons are open.
 * @param {FailedEntry[]} failed
 * @param {Child} title
 */
export function failedBox(failed, title) {
  const all = alike(failed, (entry) => entry.error);
  const list = (/** @type {FailedEntry[][]} */ some) => make("ul", { class: "failures" }, some.map(failedReason));
  return make(
    "section",
    { class: "alert bad", role: "alert" },
    make("h3", null, title),
    list(all.slice(0, 3)),
    all.length > 3
      ? details(`${plural(all.length - 3, "more reason")}`, "failed-list", () => list(all.slice(3, 300)))
      : null,
  );
}

/** @param {FailedEntry[]} entries */
function failedReason(entries) {
  const jobs = entries.map((entry) =>
    make(
      "li",
      null,
      make("strong", null, named(entry.job, 100)),
      " ",
      make(
        "span",
        { class: "quiet-text" },
        "in ",
        named(entry.analysis.id, 60),
        several ? [" · ", modelChip(entry.model)] : null,
      ),
    ),
  );
  return make(
    "li",
    null,
    make("ul", { class: "failed-jobs" }, jobs.slice(0, 3)),
    jobs.length > 3
      ? details(`${plural(jobs.length - 3, "more job")} with the same error`, "failed-list", () =>
          make("ul", { class: "failed-jobs" }, jobs.slice(3, 1000)),
        )
      : null,
    make("pre", { class: "error" }, beginning(entries[0].error, 4000)),
  );
}
