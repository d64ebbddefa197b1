// Charts of time: lines from zero, a scale of its own for each, a legend with the last values.

import { h, say } from "./dom.js";
import { clock, WHOLE_STEPS } from "./format.js";
import { colour, onThemeChange } from "./theme.js";

const HEIGHT = 150;
const FONT = '11px system-ui, "Segoe UI", sans-serif';
// Room for half of a time of the axis, pixels a character: one may stand at the very end.
const HALF_CHARACTER = 3.5;

/** A chart. `series`: [{label, tone, bars}], of which `tone` is the name of a colour of the style sheet. */
export class TimeChart {
  /** `format(value)`: a value as text, for the axis and the legend; `times(s)`: a time, seconds since 1970.
   * `target`: a line across, null for none.
   * `incrs`: how far times of the axis may be apart, seconds; `steps`: how far values may be, so that `format` writes
   * no two of them alike. */
  constructor({ title, series, format, signal, target = null, times = (s) => clock(new Date(s * 1000)), height = HEIGHT, incrs = undefined, steps = WHOLE_STEPS }) {
    this._series = series;
    this._format = format;
    this._times = times;
    this._height = height;
    this._incrs = incrs;
    this._steps = steps;
    this._place = h("div", { class: "plot", role: "img" });
    this._values = series.map(() => h("b", {}, "–"));
    this._title = title;
    this._span = null;
    this.target = target;
    this._note = h("span", { class: "small" });
    this._when = h("span", { class: "small" });
    const legend = series.map((one, number) => h("li", { class: `mark ${one.tone}` }, `${one.label} `, this._values[number]));
    this.element = h("figure", { class: "chart" },
      h("figcaption", {}, h("span", { class: "chart-title" }, title), h("ul", { class: "legend" }, legend), this._when, this._note),
      this._place);
    this._plot = null;
    this._watch = new ResizeObserver(() => this._resize());
    this._watch.observe(this._place);
    onThemeChange(() => this._plot?.redraw(), signal);
    signal.addEventListener("abort", () => {
      this._watch.disconnect();
      this._plot?.destroy();
      this._plot = null;
    });
  }

  /** `xs`: seconds since 1970; `rows`: the values of each series, null where there is none; `span`: the
   * [least, greatest] x to show; null: all. */
  update(xs, rows, span = null) {
    this._span = span;
    const data = [xs, ...rows];
    if (this._plot) this._plot.setData(data);
    else if (this._place.clientWidth) this._make(data);
    else this._waiting = data;
    if (!this._plot || this._plot.cursor.idx === null || this._plot.cursor.idx === undefined) {
      rows.forEach((row, number) => say(this._values[number], row.length ? this._format(row.at(-1)) : "–"));
    }
    const said = this._series.map((one, number) => `${one.label} ${this._values[number].textContent}`).join(", ");
    this._place.setAttribute("aria-label", `${this._title}: ${said}`);
  }

  /** A line below the title. */
  note(text) {
    say(this._note, text);
  }

  _resize() {
    const width = this._place.clientWidth;
    if (!width) return;
    if (this._plot) this._plot.setSize({ width, height: this._height });
    else if (this._waiting) this._make(this._waiting);
  }

  _make(data) {
    const axis = {
      stroke: () => colour("--ink-soft"), font: FONT,
      grid: { stroke: () => colour("--line-soft"), width: 1 }, ticks: { show: false },
    };
    const end = Math.max(8, Math.ceil(this._times(0).length * HALF_CHARACTER));
    this._plot = new uPlot({
      width: this._place.clientWidth, height: this._height, padding: [8, end, 0, 0],
      legend: { show: false }, cursor: { drag: { x: false, y: false }, points: { size: 6 } },
      scales: {
        x: { time: false, range: (_, least, most) => this._span ?? [least, most] },
        y: { range: (_, least, most) => [0, Math.max(most ?? 0, this.target ?? 0, 1) * 1.1] },
      },
      series: [{}, ...this._series.map((one) => lineOf(one))],
      axes: [
        { ...axis, size: 24, space: 80, incrs: this._incrs, values: (_, ticks) => ticks.map(this._times) },
        { ...axis, size: 58, space: 24, incrs: this._steps, values: (_, ticks) => ticks.map(this._format) },
      ],
      hooks: {
        draw: [(plot) => this._drawTarget(plot)],
        setLegend: [(plot) => this._point(plot)],
      },
    }, data, this._place);
  }

  _drawTarget(plot) {
    if (this.target === null) return;
    const y = plot.valToPos(this.target, "y", true);
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.strokeStyle = colour("--bad");
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([6 * devicePixelRatio, 4 * devicePixelRatio]);
    ctx.beginPath();
    ctx.moveTo(bbox.left, y);
    ctx.lineTo(bbox.left + bbox.width, y);
    ctx.stroke();
    ctx.restore();
  }

  /** Under the pointer the legend has the values of that time, else the last ones. */
  _point(plot) {
    const at = plot.cursor.idx ?? plot.data[0].length - 1;
    say(this._when, plot.cursor.idx === null || plot.cursor.idx === undefined ? "" : this._times(plot.data[0][at]));
    this._values.forEach((value, number) => say(value, this._format(plot.data[number + 1][at] ?? null)));
  }
}

/** How one series is drawn: as a line, or as bars. */
function lineOf(one) {
  const drawn = { label: one.label, stroke: () => colour(`--${one.tone}`), width: 1.5, spanGaps: false, points: { show: Boolean(one.dots), size: 5 } };
  if (!one.bars) return drawn;
  return { ...drawn, width: 0, fill: () => colour(`--${one.tone}`), points: { show: false }, paths: uPlot.paths.bars({ size: [0.7, 48] }) };
}
