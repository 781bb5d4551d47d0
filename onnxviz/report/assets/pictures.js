// Pictures, and the large view that opens when one is chosen.

import { island } from "./data.js";
import { button, make, named, required } from "./dom.js";
import { beginning, integer } from "./text.js";

/** @type {WeakMap<Element, { picture: Picture, source: string, caption: string }>} */
const shownPictures = new WeakMap();

/**
 * `caption` says what the picture is of; it heads the large view.
 * @param {Picture} picture
 * @param {string} caption
 * @param {{ decorative?: boolean }} [options]
 */
export function pictureNode(picture, caption, options = {}) {
  const source = island.sources[picture.source];
  if (typeof source !== "string") {
    return make(
      "span",
      { class: "picture missing", role: "img", "aria-label": picture.alt || "missing picture" },
      "picture missing",
    );
  }
  const image = make("img", {
    src: source,
    alt: options.decorative ? "" : beginning(picture.alt || caption || "picture", 500),
    width: picture.width || null,
    height: picture.height || null,
    loading: "lazy",
    decoding: "async",
    class: picture.pixelated || (picture.width && picture.width < 48) ? "pixelated" : null,
  });
  if (options.decorative) return image;
  const node = make(
    "button",
    { type: "button", class: "picture", title: beginning(caption || picture.alt || "", 500) || null },
    image,
  );
  shownPictures.set(node, { picture, source, caption: caption || picture.alt || "" });
  return node;
}

export const lightbox = /** @type {HTMLDialogElement} */ (required("lightbox"));
/** @type {Element[]} */
let lightboxList = [];
let lightboxPlace = 0;

function drawLightbox() {
  const shown = shownPictures.get(lightboxList[lightboxPlace]);
  if (!shown) return;
  const { picture, source, caption } = shown;
  const image = make("img", {
    src: source,
    alt: beginning(picture.alt || caption, 500),
    class: picture.pixelated || picture.width < 48 ? "pixelated" : null,
  });
  const room = Math.min(window.innerWidth - 48, 900) / (picture.width || 224);
  const tall = (window.innerHeight - 190) / (picture.height || 224);
  // Kernels are enlarged until every weight can be seen; photographs no further than they bear.
  const factor = Math.max(Math.min(room, tall, picture.width < 64 ? 24 : 4), 0.05);
  image.width = Math.round((picture.width || 224) * factor);
  const many = lightboxList.length > 1;
  lightbox.replaceChildren(
    make("div", { class: "lightbox-picture" }, image),
    make(
      "div",
      { class: "lightbox-text" },
      make("p", { class: "lightbox-caption" }, named(caption, 400)),
      picture.alt && picture.alt !== caption ? make("p", { class: "quiet-text" }, beginning(picture.alt, 1000)) : null,
      make(
        "div",
        { class: "lightbox-controls" },
        many ? button("← Previous", "quiet", () => turnLightbox(-1)) : null,
        many ? make("span", { class: "where" }, `${lightboxPlace + 1} of ${integer(lightboxList.length)}`) : null,
        many ? button("Next →", "quiet", () => turnLightbox(1)) : null,
        make("span", { class: "where" }, `${picture.width} × ${picture.height} pixels`),
        button("Close", "plain", () => lightbox.close()),
      ),
    ),
  );
}

/** @param {number} step */
function turnLightbox(step) {
  lightboxPlace = (lightboxPlace + step + lightboxList.length) % lightboxList.length;
  drawLightbox();
}

document.addEventListener("click", (event) => {
  const chosen = event.target instanceof Element ? event.target.closest("button.picture") : null;
  if (chosen && shownPictures.has(chosen)) {
    const gallery = chosen.closest("[data-gallery]") ?? chosen.parentElement ?? document;
    lightboxList = [...gallery.querySelectorAll("button.picture")].filter((node) => shownPictures.has(node));
    lightboxPlace = lightboxList.indexOf(chosen);
    drawLightbox();
    lightbox.showModal();
  } else if (event.target === lightbox) {
    lightbox.close();
  }
});

lightbox.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft" && lightboxList.length > 1) turnLightbox(-1);
  if (event.key === "ArrowRight" && lightboxList.length > 1) turnLightbox(1);
});

/**
 * A choice of three picture sizes for what `target` holds.
 * @param {HTMLElement} target
 */
export function sizeControl(target) {
  const control = make("div", { class: "sizes", role: "group", "aria-label": "Size of the pictures" });
  for (const size of ["small", "medium", "large"]) {
    const choice = button(
      size,
      "quiet",
      () => {
        for (const other of control.children) other.setAttribute("aria-pressed", String(other === choice));
        target.dataset.size = size;
      },
      { "aria-pressed": String(size === "medium") },
    );
    control.append(choice);
  }
  target.dataset.size = "medium";
  return control;
}
