// The island, and what is looked up in it. Keys that come from outside live in Maps.

const island = JSON.parse(document.getElementById("island").textContent);
const run = island.run;
// address -> node: where an address of the report leads.
const places = new Map();
const several = run.models.length > 1;
const modelNumbers = new Map(run.models.map((model, number) => [model.alias, number]));

function modelNumber(alias) {
  return modelNumbers.get(alias) ?? 0;
}

function modelClass(alias) {
  return `model-${modelNumber(alias) % 6}`;
}

function modelChip(alias) {
  return make("span", { class: `chip ${modelClass(alias)}` }, make("span", { class: "swatch", "aria-hidden": "true" }), named(alias, 40));
}

function failedJobs() {
  return run.analyses.flatMap((analysis) => analysis.parts.flatMap((part) => {
    return part.failed.map((job) => ({ analysis, model: part.model, job: job.job, error: job.error }));
  }));
}

const IN_WORDS = new Set(["Note", "Caveat", "Coverage"]);

function identity(finding) {
  if (finding.type === "Metric") return `Metric ${finding.id || finding.name}`;
  if (finding.type === "Coverage") return `Coverage ${finding.id || finding.what}`;
  if (finding.type === "Note" || finding.type === "Caveat") return `${finding.type} ${finding.text}`;
  return `${finding.type} ${finding.id}`;
}

// Findings with the same identity over all models of an analysis: [{ type, entries: [{ model, finding }] }].
function groups(analysis, wanted) {
  const found = new Map();
  for (const part of analysis.parts) {
    const seen = new Map();
    for (const finding of part.findings) {
      if (!wanted(finding)) continue;
      const plain = identity(finding);
      const turn = seen.get(plain) ?? 0;
      seen.set(plain, turn + 1);
      const key = `${turn} ${plain}`;
      if (!found.has(key)) found.set(key, { type: finding.type, entries: [] });
      found.get(key).entries.push({ model: part.model, finding });
    }
  }
  return [...found.values()];
}

function everyPicture(finding, leads) {
  if (finding.type === "TileGrid") return finding.tiles.flatMap((tile) => tile.pictures.slice(0, 1));
  if (finding.type === "PictureMatrix") {
    return finding.rows.flatMap((row) => {
      const cells = row.cells.filter((cell) => cell && cell.length);
      return [leads ? row.lead : null, cells.length ? cells[cells.length - 1][cells[cells.length - 1].length - 1] : null].filter(Boolean);
    });
  }
  return [];
}

// A few pictures that show what an analysis made: its richest grid or matrix, spread evenly, every model in turn.
function samplePictures(analysis, count) {
  const lists = analysis.parts.map((part) => {
    const shown = part.findings.map((finding) => everyPicture(finding, !several)).filter((list) => list.length);
    return shown.find((list) => list.some((picture) => picture.width >= 64)) ?? shown[0] ?? [];
  }).filter((list) => list.length);
  if (!lists.length) return [];
  const each = Math.ceil(count / lists.length);
  return lists.flatMap((list) => {
    const number = Math.min(each, list.length);
    return Array.from({ length: number }, (_, place) => list[Math.floor((place * list.length) / number)]);
  }).slice(0, count);
}
