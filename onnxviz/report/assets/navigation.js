// Putting the page together, and moving in it by its addresses.

import { places, run, several } from "./data.js";
import { addTo, link, make, named, required, route } from "./dom.js";
import { analysisSection } from "./findings.js";
import { modelsSection } from "./models.js";
import { overview } from "./overview.js";
import { lightbox } from "./pictures.js";
import { dataSection, provenanceSection } from "./provenance.js";
import { SIDE_BY_SIDE, sideBySideSection } from "./side_by_side.js";
import { shorten, visible } from "./text.js";
import { unitPage } from "./units.js";

const main = required("main");
const contents = required("contents");
const reportBody = make("div", { class: "report" });
const unitBody = make("div", { class: "unit-room", hidden: true });
let reportScroll = 0;

function contentsList() {
  const entry = (/** @type {string} */ address, /** @type {Child} */ label) => make("li", null, link(address, label));
  const entries = [
    entry(route(""), "Overview"),
    entry(route("models"), several ? "The models" : "The model"),
    run.analyses.length
      ? make(
          "li",
          { class: "nav-group" },
          make("span", null, "Analyses"),
          make(
            "ul",
            null,
            places.has(route(SIDE_BY_SIDE)) ? entry(route(SIDE_BY_SIDE), "Side by side") : null,
            run.analyses.map((analysis) =>
              entry(route("analysis", analysis.id), named(analysis.title || analysis.id, 60)),
            ),
          ),
        )
      : null,
    run.data.length ? entry(route("data"), "The data") : null,
    entry(route("provenance"), "How to repeat this"),
  ];
  const fold = make(
    "details",
    { class: "contents-fold" },
    make(
      "summary",
      null,
      make("span", { class: "wordmark" }, "onnxviz"),
      make("span", { class: "contents-word" }, "Contents"),
    ),
    make("ul", { class: "contents-list" }, entries),
  );
  const wide = matchMedia("(min-width: 1080px)");
  const adapt = () => {
    fold.open = wide.matches;
  };
  wide.addEventListener("change", adapt);
  adapt();
  fold.addEventListener("click", (event) => {
    if (!wide.matches && event.target instanceof Element && event.target.closest("a")) fold.open = false;
    if (wide.matches && event.target instanceof Element && event.target.closest("summary")) event.preventDefault();
  });
  return fold;
}

/** Marks the part of the report that is being read. */
function watchSections() {
  const links = [...contents.querySelectorAll("a")];
  /** @type {Map<Element, Element>} */
  const watched = new Map(
    links.flatMap((node) => {
      const place = places.get(node.getAttribute("href") ?? "");
      return place ? [[place, node]] : [];
    }),
  );
  const observer = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        for (const node of links) node.removeAttribute("aria-current");
        watched.get(entry.target)?.setAttribute("aria-current", "true");
      }
    },
    { rootMargin: "-20% 0px -70% 0px" },
  );
  for (const place of watched.keys()) observer.observe(place);
}

function showReport() {
  const came = !unitBody.hidden;
  unitBody.hidden = true;
  unitBody.replaceChildren();
  reportBody.hidden = false;
  document.title = visible(shorten(run.title || "onnxviz report", 200));
  return came;
}

function follow() {
  if (location.hash && !location.hash.startsWith("#/")) return;
  if (lightbox.open) lightbox.close();
  const [kind, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  if (kind === "unit" && rest.length === 2) {
    const [layer, index] = rest.map(decoded);
    if (unitBody.hidden) reportScroll = window.scrollY;
    reportBody.hidden = true;
    unitBody.hidden = false;
    unitBody.replaceChildren(unitPage(layer, Number(index)));
    document.title = visible(shorten(`${layer} : ${index}`, 200));
    window.scrollTo(0, 0);
    unitBody.querySelector("h1")?.focus({ preventScroll: true });
    return;
  }
  const came = showReport();
  const place = places.get(route(...[kind, ...rest].map(decoded)));
  if (place && kind) {
    place.scrollIntoView({ block: "start" });
    /** @type {HTMLElement | null} */
    const heading = place.querySelector("h1, h2, h3, h4");
    heading?.setAttribute("tabindex", "-1");
    heading?.focus({ preventScroll: true });
  } else {
    window.scrollTo(0, came ? reportScroll : 0);
  }
}

/** @param {string} part */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function start() {
  const first = overview();
  const beside = sideBySideSection();
  places.set(route(""), first);
  addTo(reportBody, [
    first,
    modelsSection(),
    run.analyses.length
      ? make(
          "section",
          { class: "chapter" },
          make("h2", null, "What was analysed"),
          beside,
          run.analyses.map(analysisSection),
        )
      : null,
    dataSection(),
    provenanceSection(),
    make(
      "footer",
      { class: "colophon" },
      "Made by onnxviz",
      run.provenance.versions && Object.hasOwn(run.provenance.versions, "onnxviz")
        ? ` ${shorten(run.provenance.versions.onnxviz, 20)}`
        : "",
      ". This page loads nothing from the network.",
    ),
  ]);
  contents.replaceChildren(contentsList());
  main.replaceChildren(reportBody, unitBody);
  watchSections();
  window.addEventListener("hashchange", follow);
  window.addEventListener("beforeprint", () => {
    for (const fold of document.querySelectorAll("main details.method, .caveats details")) {
      fold.setAttribute("open", "");
    }
  });
  if (location.hash) follow();
  else document.title = visible(shorten(run.title || "onnxviz report", 200));
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
}

start();
