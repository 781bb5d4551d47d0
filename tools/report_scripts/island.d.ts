// Made by tools/report_types.py from the dataclasses of findings and results: change those, not this file.

/** A number: JSON lacks those that are not finite. */
type Float = number | { type: "float"; value: "nan" | "inf" | "-inf" };

type Cell = string | boolean | Float | Unit | null;

/** What the page is made from: the run, and where its pictures lie. */
interface Island {
  run: RunResult;
  sources: (string | null)[];
  missing: string[];
  differences: Difference[];
}

interface Metric {
  type: "Metric";
  name: string;
  value: Float;
  title: string;
  description: string;
  format: "number" | "integer" | "percent" | "scientific";
  better: "higher" | "lower" | "neither";
  id: string;
  total: number;
  interval: [Float, Float] | [];
  chance: [Float, Float] | [];
  tabled: boolean;
  count: number | null;
}

interface Column {
  type: "Column";
  name: string;
  kind: "text" | "integer" | "number" | "percent" | "scientific" | "unit";
  description: string;
}

interface Table {
  type: "Table";
  id: string;
  title: string;
  columns: Array<Column>;
  rows: Array<Array<string | number | Float | boolean | Unit | null>>;
  description: string;
  key: number;
  leading: boolean;
}

interface Tile {
  type: "Tile";
  title: string;
  unit: Unit | null;
  pictures: Array<Picture>;
  facts: Array<[string, string | number | Float | boolean | Unit | null]>;
  curve: Array<Float>;
  curve_title: string;
  captions: Array<string>;
}

interface TileGrid {
  type: "TileGrid";
  id: string;
  title: string;
  tiles: Array<Tile>;
  description: string;
  tile_size: number;
}

interface MatrixRow {
  type: "MatrixRow";
  title: string;
  cells: Array<Array<Picture> | null>;
  lead: Picture | null;
  facts: Array<[string, string | number | Float | boolean | Unit | null]>;
}

interface PictureMatrix {
  type: "PictureMatrix";
  id: string;
  title: string;
  columns: Array<string>;
  rows: Array<MatrixRow>;
  description: string;
  scale: string;
}

interface Histogram {
  type: "Histogram";
  id: string;
  title: string;
  edges: Array<Float>;
  counts: Array<Float>;
  x_label: string;
  y_label: string;
  description: string;
}

interface Bars {
  type: "Bars";
  id: string;
  title: string;
  categories: Array<string>;
  values: Array<Float>;
  y_label: string;
  description: string;
  chance: Array<[Float, Float]>;
}

interface Series {
  type: "Series";
  name: string;
  xs: Array<Float>;
  ys: Array<Float>;
}

interface Curve {
  type: "Curve";
  id: string;
  title: string;
  series: Array<Series>;
  x_label: string;
  y_label: string;
  description: string;
}

interface Note {
  type: "Note";
  text: string;
  id: string;
  about: string;
}

interface Caveat {
  type: "Caveat";
  text: string;
  id: string;
  level: "wrong" | "doubt" | "limit";
}

interface Coverage {
  type: "Coverage";
  what: string;
  done: number;
  total: number;
  reason: string;
  id: string;
}

interface ArrayFile {
  type: "Array";
  id: string;
  title: string;
  path: string;
  address: string | null;
}

interface Outcomes {
  type: "Outcomes";
  id: string;
  images: Array<string>;
  holds: Array<boolean>;
}

interface Picture {
  type: "Picture";
  alt: string;
  pixelated: boolean;
  width: number;
  height: number;
  source: number;
}

interface Unit {
  type: "Unit";
  layer: string;
  index: number;
}

interface LayerRow {
  name: string;
  operator: string;
  shape: Array<number | null>;
  parameters: number;
  multiply_adds: number | null;
  receptive_field: Array<number> | null;
  units: number;
  name_in_file: string;
}

interface HeadRow {
  outputs: Array<string>;
  kind: string;
  words: string;
  reason: string;
  source: string;
  scores: string;
  main: boolean;
}

interface TriedPreprocessing {
  channel_order: string;
  pixels: string;
  size_by: string;
  top1: Float | null;
  top5: Float | null;
  steady: Float;
  variety: Float;
  score: Float;
  chance: Float;
  alike: Float;
}

interface Tried {
  data: string;
  images: number;
  found: number;
  labelled: number;
  by_accuracy: boolean;
  clear: boolean;
  verdict: string;
  note: string;
  trials: Array<TriedPreprocessing>;
  interval: Array<Float>;
  doubts: Array<string>;
}

interface ModelCard {
  alias: string;
  file: string;
  digest: string;
  bytes: number;
  producer: string;
  opset: string;
  inputs: Array<string>;
  outputs: Array<string>;
  preprocessing: string;
  preprocessing_origin: "declared" | "trial" | "undecided" | "guess";
  geometry: string;
  layers: Array<LayerRow>;
  parameters: number;
  multiply_adds: number | null;
  agreement: Array<Agreement>;
  passes: Array<string>;
  refused_operators: Array<[string, string]>;
  labels: number;
  seen: Array<[string, string]>;
  heads: Array<HeadRow>;
  tried: Tried | null;
}

interface FailedJob {
  job: string;
  error: string;
}

interface Part {
  model: string;
  findings: any[];
  metrics: Record<string, Float>;
  jobs: number;
  cached: number;
  failed: Array<FailedJob>;
  seconds: Float;
  cost: Float;
}

interface AnalysisResult {
  id: string;
  kind: string;
  title: string;
  summary: string;
  description: string;
  cites: Array<string>;
  settings: Record<string, any>;
  parts: Array<Part>;
  reading: string;
  side_by_side: boolean;
}

interface ExpectationResult {
  metric: string;
  condition: string;
  level: "error" | "warn" | "off";
  because: string;
  value: Float | null;
  holds: boolean;
  model: string;
}

interface DataCard {
  name: string;
  kind: string;
  description: string;
  digest: string;
  used: number;
  skipped: Array<[string, string]>;
  notes: Array<[string, string]>;
  remarks: Array<string>;
}

interface Provenance {
  seed: number;
  device: string;
  versions: Record<string, string>;
  started: string;
  seconds: Float;
  jobs: number;
  cached: number;
  command: string;
  engine: string;
  limits: Array<[string, string]>;
  defences: Array<Defence>;
  events: Array<string>;
}

interface RunResult {
  title: string;
  recipe: string;
  models: Array<ModelCard>;
  data: Array<DataCard>;
  analyses: Array<AnalysisResult>;
  expectations: Array<ExpectationResult>;
  provenance: Provenance;
  not_comparable: Array<string>;
  format: number;
  verdict: "passed" | "failed" | "incomplete" | "finished";
  repeat: string;
}

interface Agreement {
  layer: string;
  relative: Float;
  absolute: Float;
  tolerance: Float;
  reference: "file" | "float32";
  note: string;
  off: "" | "runtime" | "ours" | "both" | "neither" | "unknown";
  ours: Float;
  theirs: Float;
  origin: string;
  judged: string;
  effect: string;
  end_to_end: Float | null;
}

interface Defence {
  name: string;
  active: boolean;
  how: string;
  reason: string;
}

interface Difference {
  analysis: string;
  metric: string;
  verdict: "better" | "worse" | "differs" | "none" | "unknown";
  reason: string;
  interval: [Float, Float] | [];
}
