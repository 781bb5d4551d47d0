// What the report's scripts hand to one another.

/** What may stand inside a node: text is made a text node, nothing is left out, lists are taken apart. */
type Child = Node | string | number | null | undefined | false | Child[];

type Attributes = Record<string, string | number | boolean | null | undefined>;

/** A finding with the alias of the model that it is about. */
interface Entry<F> {
  model: string;
  finding: F;
}

/** Findings of one identity over all models. */
interface Group<F> {
  type: string;
  entries: Entry<F>[];
}

interface FailedEntry {
  analysis: AnalysisResult;
  model: string;
  job: string;
  error: string;
}

/** A line of what to know before believing; lines whose heads are the same text become one. */
interface CaveatLine {
  level: string;
  head: Child;
  rest: string;
  /** Makes the node that says where the line belongs. */
  where: (() => Child) | null;
}

interface Scales {
  x: (value: number) => number;
  y: (value: number) => number;
}

interface Points {
  xs: number[];
  ys: number[];
}

interface Line extends Points {
  model: string;
  name: string;
  className: string;
}

interface BarEntry {
  model: string;
  value: number;
  chance: [Float, Float] | null;
}

interface MatrixLine {
  model: string;
  row: Omit<MatrixRow, "type">;
}

interface TableColumn {
  head: Child;
  kind: string;
  description?: string;
  /** Whether it is the second model's value minus the first's. */
  difference?: boolean;
}

/** Tables of the page's own have cells that no finding has: lists of numbers, sentences. */
type Row = any[];

interface TableOptions {
  label?: string;
  /** Index of the column that heads each row. */
  key?: number;
  className?: string;
  cell?: (row: Row, place: number) => Child;
  rowClass?: (row: Row) => string | null;
  groupRow?: () => Node;
}

/** Tiles that are shown as one: a model's own, or those of several models beside each other. */
type Card = { model: string; tile: Tile; apart?: boolean }[];

interface UnitEntry {
  analysis: AnalysisResult;
  model: string;
  finding: any;
  tile?: Tile;
  row?: Cell[];
}

/** Everything that is said about a unit. */
interface UnitPlaces {
  layer: string;
  index: number;
  tiles: UnitEntry[];
  rows: UnitEntry[];
}
