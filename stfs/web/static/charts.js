// Charts over time with uPlot, and bars made of elements. Colours are the style sheet's, read again when it turns dark.
// Each chart's newest numbers, or those under the pointer, stand in its legend as text.

import { byId, element, page, setText } from "./dom.js";
import { clock, NONE } from "./format.js";

export const SPANS = { fine: 300, coarse: 3600 }; // seconds

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();

const AXIS_FONT = "11px system-ui, sans-serif";

// Does the work once with the next frame, however often it is asked for until then: a page that was held up hears many
// ticks at once.
export function onceAFrame(work) {
  let due = false;
  return () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => { due = false; work(); });
  };
}

// Points that have no neighbour would be invisible in a line.
function alone(values) {
  const found = [];
  for (let i = 0; i < values.length; i++) {
    if (values[i] != null && values[i - 1] == null && values[i + 1] == null) found.push(i);
  }
  return found;
}

// Whole powers of ten around what is to be shown, in seconds: a median beside a tail a hundred times as long.
function powers(low, high) {
  if (low == null) return [1e-4, 1];
  const from = Math.floor(Math.log10(Math.max(low, 1e-5)));
  return [10 ** from, 10 ** Math.max(Math.ceil(Math.log10(Math.max(high, 1e-5))), from + 1)];
}

export class LineChart {
  // series: [{ column, words, colour: "s1", fill: true }, ...]; format: a number as text; log: by powers of ten; nothing:
  // what is said where there is nothing
  constructor(id, { series, format, least = 0, log = false, nothing = "Nothing to show in this time" }) {
    this.figure = byId("chart-" + id);
    this.series = series;
    this.format = format;
    this.least = least; // the top of the axis is at least this
    this.log = log;
    this.nothing = nothing;
    this.none = true; // then the axis has no numbers: they would be of nothing
    this.place = this.figure.querySelector(".plot");
    this.empty = this.place.querySelector(".empty");
    this.plot = null;
    this.rows = [[], ...series.map(() => [])];
    this.range = "fine";
    this.values = series.map((each, index) => {
      const value = element("b", {}, NONE);
      const mark = element("i", { class: each.colour === "s-error" ? "ce" : "c" + each.colour.slice(1) });
      this.figure.querySelector(".legend").append(element("li", {}, mark, each.words + " ", value));
      return value;
    });
    if (!page.charts) {
      setText(this.empty, "Charts need the package youplot: pip install youplot");
      return;
    }
    new ResizeObserver(() => this.resize()).observe(this.place);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.rebuild());
  }

  get names() { return this.series.map((each) => each.column); }

  update(store, range) {
    this.rows = store.table(range, this.names);
    this.range = range;
    this.none = !this.rows.slice(1).some((column) => column.some((value) => value != null));
    if (page.charts) {
      setText(this.empty, store.columns.length ? this.nothing : "No data yet");
      this.empty.hidden = !this.none;
      if (this.plot) this.plot.setData(this.rows);
      else this.rebuild();
    }
    if (!this.plot || this.plot.cursor.idx == null) this.tell(this.rows[0].length - 1);
  }

  tell(index) {
    this.values.forEach((value, series) => setText(value, this.format((this.rows[series + 1] || [])[index])));
  }

  resize() {
    const width = this.place.clientWidth, height = this.place.clientHeight;
    if (!width || !height) return;
    if (this.plot) this.plot.setSize({ width, height });
    else this.rebuild();
  }

  rebuild() {
    if (this.plot) this.plot.destroy();
    this.plot = null;
    const width = this.place.clientWidth, height = this.place.clientHeight;
    if (!width || !height || typeof uPlot === "undefined") return;
    const soft = colour("soft"), grid = { stroke: colour("grid"), width: 1 };
    const axis = { stroke: soft, grid, ticks: { show: false }, font: AXIS_FONT };
    const chart = this;
    this.plot = new uPlot({
      width, height,
      padding: [8, 16, 0, 0],
      legend: { show: false },
      cursor: { sync: { key: "stfs" }, drag: { x: false, y: false }, points: { size: 6 } },
      scales: {
        x: { time: true, range: () => {
          const times = chart.rows[0], end = times.length ? times[times.length - 1] : Date.now() / 1e3;
          return [end - SPANS[chart.range], end];
        } },
        y: this.log ? { distr: 3, range: (_, low, high) => powers(low, high) }
          : { range: (_, low, high) => [0, Math.max((high || 0) * 1.15, chart.least || 1e-9)] },
      },
      axes: [
        { ...axis, space: 70, size: 26, values: (_, splits) => splits.map((at) => clock(at).slice(0, 5)), incrs: [60, 120, 300, 600, 900, 1800] },
        { ...axis, grid: { ...grid, filter: (_, splits) => splits.map((value) => (chart.none ? null : value)) }, size: 56, gap: 6, space: 32, values: (_, splits) => splits.map((value) => (value == null || chart.none ? "" : chart.format(value))) },
      ],
      series: [{}, ...this.series.map((each, index) => ({
        stroke: colour(each.colour),
        width: 1.5,
        fill: each.fill ? colour(each.colour) + "26" : undefined,
        points: { show: true, size: 4, fill: colour(each.colour), filter: (u) => alone(u.data[index + 1]) },
      }))],
      hooks: { setCursor: [(u) => chart.tell(u.cursor.idx == null ? chart.rows[0].length - 1 : u.cursor.idx)] },
    }, this.rows, this.place);
    // What it shows stands in the legend as text.
    this.plot.root.setAttribute("aria-hidden", "true");
  }
}

// rows: [{ words, about, value, told }]; the longest bar is the greatest value.
export function drawBars(list, rows) {
  const most = Math.max(...rows.map((row) => row.value), 0);
  while (list.children.length > rows.length) list.lastChild.remove();
  rows.forEach((row, index) => {
    let item = list.children[index];
    if (!item) {
      item = element("li", {}, element("span", { class: "name" }, element("span"), element("span", { class: "soft" })), element("span", { class: "track" }, element("span", { class: "fill" })), element("span", { class: "count" }));
      list.append(item);
    }
    const [name, track, told] = item.children;
    setText(name.firstChild, row.words);
    setText(name.lastChild, row.about ? " " + row.about : "");
    setText(told, row.told);
    item.className = row.value ? "" : "none";
    track.firstChild.style.width = (most > 0 ? Math.max((row.value / most) * 100, row.value > 0 ? 1 : 0) : 0) + "%";
  });
}

// The switch between five minutes and an hour; calls back with "fine" or "coarse".
export function rangeSwitch(onChange) {
  const group = byId("range");
  group.addEventListener("click", (event) => {
    const chosen = event.target.closest("button");
    if (!chosen) return;
    for (const button of group.children) button.setAttribute("aria-pressed", String(button === chosen));
    onChange(chosen.dataset.range);
  });
}
