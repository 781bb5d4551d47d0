// Grids of tiles and matrices of pictures.

const PAGE_TILES = 120;
const PAGE_MATRIX_ROWS = 20;

function tileBody(tile, options = {}) {
  const label = options.model ? `${tile.title} · ${options.model}` : tile.title;
  const pictures = tile.pictures.map((picture, place) => {
    const caption = tile.captions[place];
    return make("figure", null, pictureNode(picture, caption ? `${label} · ${caption}` : label),
      caption ? make("figcaption", null, named(caption, 60)) : null);
  });
  return [
    pictures.length ? make("div", { class: `tile-pictures count-${Math.min(pictures.length, 4)}` }, pictures) : null,
    tile.curve.length > 1 ? sparkline(tile.curve, tile.curve_title, options.model) : null,
    factList(tile.facts),
  ];
}

function tileTitle(tile) {
  return make("h5", { class: "tile-title" }, tile.unit ? link(route("unit", tile.unit.layer, tile.unit.index), named(tile.title, 70)) : named(tile.title, 70));
}

// One card for each title; for several models a column for each.
function tileCards(entries) {
  if (entries.length === 1) return entries[0].finding.tiles.map((tile) => [{ model: "", tile }]);
  const cards = new Map();
  for (const { model, finding } of entries) {
    const seen = new Map();
    for (const tile of finding.tiles) {
      const turn = seen.get(tile.title) ?? 0;
      seen.set(tile.title, turn + 1);
      const key = `${turn} ${tile.title}`;
      if (!cards.has(key)) cards.set(key, []);
      cards.get(key).push({ model, tile });
    }
  }
  return [...cards.values()];
}

function tileCard(card, models) {
  const { tile } = card[0];
  if (models.length < 2) return make("article", { class: "tile" }, tileTitle(tile), tileBody(tile));
  const columns = models.map((model) => {
    const found = card.find((entry) => entry.model === model);
    return make("div", { class: "tile-model" }, modelChip(model), found ? tileBody(found.tile, { model }) : make("p", { class: "quiet-text" }, "not in this model"));
  });
  return make("article", { class: "tile wide" }, tileTitle(tile), make("div", { class: "tile-models" }, columns));
}

function gridFinding(group) {
  const models = group.entries.length > 1 ? group.entries.map((entry) => entry.model) : [];
  const cards = tileCards(group.entries);
  const { finding } = group.entries[0];
  const most = Math.max(1, ...cards.slice(0, 50).flatMap((card) => card.map(({ tile }) => tile.pictures.length)));
  const width = pictureWidth(finding, cards);
  const columns = Math.min(most, 4);
  const grid = make("div", { class: `tile-grid${cards.some((card) => card[0].tile.facts.length) ? " with-facts" : ""}`, "data-gallery": "" });
  grid.style.setProperty("--picture", `${width}px`);
  grid.style.setProperty("--columns", String(columns));
  grid.style.setProperty("--models", String(Math.max(1, models.length)));
  const state = { words: "", fact: "", descending: true };
  // About nine lines of tiles on a wide screen.
  const line = Math.max(1, Math.floor(1080 / (Math.max(130, (width + 8) * columns + 14) * Math.max(1, models.length))));
  const size = Math.min(PAGE_TILES, Math.max(12, line * 9));
  const count = make("span", { class: "where", "aria-live": "polite" });
  const show = () => {
    const wanted = state.words.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = wanted.length ? cards.filter((card) => wanted.every((word) => cardText(card).includes(word))) : cards;
    if (state.fact) shown = sortedRows(shown, (card) => cardFact(card, state.fact), state.descending);
    count.textContent = wanted.length ? `${integer(shown.length)} of ${integer(cards.length)}` : plural(cards.length, "tile");
    grid.replaceChildren(shown.length ? paged(shown, size, (part) => make("div", { class: "tiles" }, part.map((card) => tileCard(card, models))), "tiles")
      : make("p", { class: "quiet-text" }, "No tile holds these words."));
  };
  const controls = make("div", { class: "controls" });
  if (cards.length > FILTER_FROM) controls.append(filterBox((words) => { state.words = words; show(); }, "Filter tiles"));
  const facts = sortableFacts(cards);
  if (cards.length > 5 && facts.length) controls.append(sortControl(facts, (fact, descending) => { Object.assign(state, { fact, descending }); show(); }));
  if (cards.length > 3) controls.append(sizeControl(grid));
  if (cards.length > FILTER_FROM) controls.append(count);
  show();
  return [controls.childElementCount ? controls : null, grid];
}

function pictureWidth(finding, cards) {
  if (finding.tile_size > 0) return Math.max(32, Math.min(512, finding.tile_size));
  const [picture] = cards.slice(0, 20).flatMap((card) => card.flatMap(({ tile }) => tile.pictures));
  return picture && picture.width ? Math.max(72, Math.min(192, picture.width)) : 128;
}

const cardTexts = new WeakMap();

function cardText(card) {
  if (!cardTexts.has(card)) {
    const words = card.flatMap(({ tile }) => [tile.title, ...tile.facts.flatMap(([name, value]) => [name, cellText(value)]), ...tile.captions]);
    cardTexts.set(card, words.map((word) => shorten(word, 400)).join(" ").toLowerCase());
  }
  return cardTexts.get(card);
}

function cardFact(card, fact) {
  for (const { tile } of card) {
    const found = tile.facts.find(([name]) => name === fact);
    if (found) return found[1];
  }
  return null;
}

function sortableFacts(cards) {
  const names = new Map();
  for (const card of cards.slice(0, 200)) {
    for (const { tile } of card) for (const [name, value] of tile.facts) if (numeric(value) !== null) names.set(name, (names.get(name) ?? 0) + 1);
  }
  return [...names.keys()].slice(0, 12);
}

function sortControl(facts, change) {
  const choice = make("select", { "aria-label": "Order of the tiles" }, make("option", { value: "" }, "in order"),
    facts.flatMap((fact, number) => [make("option", { value: `${number} down` }, `${shorten(fact, 40)}, highest first`), make("option", { value: `${number} up` }, `${shorten(fact, 40)}, lowest first`)]));
  choice.addEventListener("change", () => {
    const [number, direction] = choice.value.split(" ");
    change(choice.value ? facts[Number(number)] : "", direction === "down");
  });
  return choice;
}

function matrixFinding(group) {
  const heads = group.entries.map(({ finding }) => JSON.stringify(finding.columns));
  if (group.entries.length > 1 && !heads.every((head) => head === heads[0])) {
    return group.entries.map(({ model, finding }) => make("div", { class: "by-model" }, modelHeading(model), matrixNode(finding.columns, finding.rows.map((row) => ({ model, row })), finding, false)));
  }
  const { finding } = group.entries[0];
  const titles = new Map();
  for (const entry of group.entries) {
    entry.finding.rows.forEach((row) => {
      if (!titles.has(row.title)) titles.set(row.title, []);
      titles.get(row.title).push({ model: entry.model, row });
    });
  }
  return matrixNode(finding.columns, [...titles.values()].flat(), finding, group.entries.length > 1);
}

function matrixNode(columns, rows, finding, byModel) {
  const frameNode = make("div", { class: "matrix", "data-gallery": "" });
  const head = () => make("tr", null, make("th", { scope: "col", class: "lead" }, make("span", { class: "unseen" }, "picture")),
    columns.map((column, place) => make("th", { scope: "col" }, make("span", { class: "ordinal" }, `${place + 1}`), named(column, 40))));
  const line = ({ model, row }, place, shown) => {
    const again = byModel && place > 0 && shown[place - 1].row.title === row.title;
    const cells = columns.map((column, number) => {
      const cell = row.cells[number];
      if (!cell || !cell.length) return make("td", { class: "empty" }, make("span", { "aria-label": "no picture" }, "–"));
      const label = [row.title, column, byModel ? model : ""].filter(Boolean).join(" · ");
      return make("td", null, cell.map((picture) => pictureNode(picture, label)));
    });
    return make("tr", { class: again ? "again" : null }, make("th", { scope: "row", class: "lead" },
      again ? null : [row.lead ? pictureNode(row.lead, row.title) : null, make("div", { class: "row-title" }, named(row.title, 80))],
      byModel ? modelChip(model) : null, factList(row.facts)), cells);
  };
  const draw = (shown) => make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": shorten(finding.title, 200) },
    make("table", null, make("thead", null, head()), make("tbody", null, shown.map(line))));
  frameNode.append(paged(rows, PAGE_MATRIX_ROWS, draw, "rows"));
  return make("div", null,
    make("div", { class: "controls" }, columns.length > 3 ? make("span", { class: "direction" }, `${plural(columns.length, "column")}, left to right${columns.length > 7 ? "; scroll sideways for more" : ""}`) : null, sizeControl(frameNode)),
    frameNode, finding.scale ? make("p", { class: "scale" }, make("span", { class: "ramp", "aria-hidden": "true" }), "Colours: ", shorten(finding.scale, 400)) : null);
}
