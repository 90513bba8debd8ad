// Curves as inline SVG: the panels of DATA.panels, and any other metric on demand.

const CHART = { width: 460, height: 230, left: 54, right: 12, top: 10, bottom: 36 };
const PLOT = {
  width: CHART.width - CHART.left - CHART.right,
  height: CHART.height - CHART.top - CHART.bottom,
};
const PALETTE_SIZE = 7;
const smoothing = { factor: 0 };

/** Round values from low to high, about `count` of them. */
function ticks(low, high, count, whole = false) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = Math.max(whole ? 1 : 0, power * [1, 2, 5, 10].find((factor) => raw <= factor * power * 1.0001));
  const values = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n += 1) values.push(n * step || 0); // not -0
  return values;
}

/** Exponential moving average, corrected for its start. */
function smoothed(values, factor) {
  let [sum, weight] = [0, 0];
  return values.map((value) => {
    sum = factor * sum + (1 - factor) * value;
    weight = factor * weight + (1 - factor);
    return sum / weight;
  });
}

/** Lower and upper ends of a line's band: its own, or those of the two series that the panel names. */
function bandOf(series, data, run) {
  if (data.low) return [data.low, data.high];
  const [low, high] = [run.series[series.low], run.series[series.high]];
  return low && high && low.y.length === data.y.length && high.y.length === data.y.length ? [low.y, high.y] : null;
}

/** The lines of a panel: one for each of its series in each run that has it. */
function panelLines(panel) {
  const lines = [];
  panel.series.forEach((series, place) => {
    DATA.runs.forEach((run, number) => {
      const data = run.series[series.name];
      if (!data) return;
      const band = bandOf(series, data, run);
      const smooth = smoothing.factor > 0 && !band;
      const palette = panel.series.length === 1 ? number : place;
      lines.push({
        name: series.label,
        run: number,
        colour: series.role ? `var(--role-${series.role})` : `var(--series-${palette % PALETTE_SIZE})`,
        dashed: number > 0,
        x: data.x,
        raw: data.y,
        y: smooth ? smoothed(data.y, smoothing.factor) : data.y,
        band,
        smooth,
      });
    });
  });
  return lines;
}

/** Least and greatest of some numbers, kept apart where they are equal. */
function range(values) {
  const present = values.filter((value) => value !== null);
  const low = present.reduce((least, value) => Math.min(least, value), Infinity);
  const high = present.reduce((most, value) => Math.max(most, value), -Infinity);
  if (low < high) return [low, high];
  const around = Math.abs(low) * 0.1 || 1;
  return [low - around, high + around];
}

/** Pixel positions of steps and values, and the other way round for steps. */
function axes(panel, lines) {
  const [x0, x1] = range(lines.flatMap((line) => line.x));
  let [y0, y1] = range(lines.flatMap((line) => [...line.raw, ...(line.band || []).flat()]));
  const room = (y1 - y0) * 0.06;
  y0 = panel.bounds[0] ?? y0 - room;
  y1 = panel.bounds[1] ?? y1 + room;
  return {
    x0, x1, y0, y1,
    x: (step) => CHART.left + ((step - x0) / (x1 - x0)) * PLOT.width,
    y: (value) => (value === null ? null : CHART.top + (1 - (value - y0) / (y1 - y0)) * PLOT.height),
    step: (pixel) => x0 + ((pixel - CHART.left) / PLOT.width) * (x1 - x0),
  };
}

/** SVG path through points in pixels; a missing value is a gap. */
function path(points) {
  let pen = "M";
  return points.map(([x, y]) => {
    if (y === null) {
      pen = "M";
      return "";
    }
    const part = `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
    pen = "L";
    return part;
  }).join("");
}

function drawAxes(panel, scale) {
  const bottom = CHART.top + PLOT.height;
  const right = CHART.left + PLOT.width;
  return s(
    "g",
    { class: "axes" },
    ticks(scale.y0, scale.y1, 5).map((value) => [
      s("line", { class: "grid", x1: CHART.left, x2: right, y1: scale.y(value), y2: scale.y(value) }),
      s("text", { x: CHART.left - 6, y: scale.y(value) + 4, "text-anchor": "end" }, format(value)),
    ]),
    ticks(scale.x0, scale.x1, 6, true).map((step) =>
      s("text", { x: scale.x(step), y: bottom + 15, "text-anchor": "middle" }, format(step))),
    s("line", { class: "base", x1: CHART.left, x2: right, y1: bottom, y2: bottom }),
    s("text", { class: "unit", x: right, y: bottom + 30, "text-anchor": "end" }, "training step"),
    s("text", { class: "unit", transform: `translate(11 ${CHART.top + PLOT.height / 2}) rotate(-90)`,
      "text-anchor": "middle" }, panel.unit),
  );
}

function drawLine(line, scale) {
  const group = s("g", { class: `line${line.dashed ? " dashed" : ""}` });
  group.style.color = line.colour;
  if (line.band) {
    const [low, high] = line.band;
    const there = line.x.map((step, i) => [scale.x(step), scale.y(high[i])]);
    const back = line.x.map((step, i) => [scale.x(step), scale.y(low[i])]).reverse();
    group.append(s("path", { class: "band", d: `${path([...there, ...back])}Z` }));
  }
  const points = (values) => line.x.map((step, i) => [scale.x(step), scale.y(values[i])]);
  if (line.smooth) group.append(s("path", { class: "raw", d: path(points(line.raw)) }));
  group.append(s("path", { class: "curve", d: path(points(line.y)) }));
  if (line.x.length <= 30) {
    group.append(...points(line.y).map(([x, y]) => s("circle", { cx: x, cy: y, r: 2.2 })));
  }
  return group;
}

/** What a screen reader says of a chart: each line from its first to its last value. */
function summary(panel, lines) {
  const parts = lines.map((line) =>
    `${TWO_RUNS ? `${LETTERS[line.run]}, ` : ""}${line.name} from ${format(line.raw[0])} at step ${line.x[0]} to ${format(line.raw.at(-1))} at ${line.x.at(-1)}`);
  return `${panel.title}, ${panel.unit}. ${parts.join("; ")}.`;
}

function swatch(line) {
  const element = h("i", { class: line.dashed ? "dashed" : "", "aria-hidden": "true" });
  element.style.color = line.colour;
  return element;
}

/** A line's value at a step, with its band, and with its run where there are two; empty where it has none. */
function valueAt(line, step) {
  const place = line.x.indexOf(step);
  if (place < 0) return "";
  const band = line.band ? ` [${format(line.band[0][place])}, ${format(line.band[1][place])}]` : "";
  return `${TWO_RUNS ? `${LETTERS[line.run]} ` : ""}${format(line.y[place])}${band}`;
}

/** A figure with title, legend and curves; hovering or the arrow keys read values off, Enter asks for a step. */
function chart(panel, onStep) {
  const lines = panelLines(panel);
  const scale = axes(panel, lines);
  const steps = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
  const cursor = s("line", { class: "cursor", y1: CHART.top, y2: CHART.top + PLOT.height, visibility: "hidden" });
  const svg = s(
    "svg",
    { viewBox: `0 0 ${CHART.width} ${CHART.height}`, role: "img", tabindex: 0, "aria-label": summary(panel, lines) },
    drawAxes(panel, scale), lines.map((line) => drawLine(line, scale)), cursor,
  );
  const entries = [...new Set(lines.map((line) => line.name))].map((name) => {
    const own = lines.filter((line) => line.name === name);
    const reading = h("output", {});
    return { own, reading, element: h("li", {}, own.map(swatch), name, reading) };
  });
  const keys = h("ul", { class: "keys" }, entries.map((entry) => entry.element));
  const stepReading = h("output", { class: "at" });
  let at = null;
  const read = (index) => {
    at = index;
    const step = index === null ? null : steps[index];
    stepReading.textContent = step === null ? "" : `step ${step}`;
    cursor.setAttribute("visibility", step === null ? "hidden" : "visible");
    if (step !== null) for (const end of ["x1", "x2"]) cursor.setAttribute(end, scale.x(step));
    for (const { own, reading } of entries) reading.textContent = own.map((line) => valueAt(line, step)).join(" ");
  };
  const nearest = (event) => {
    const box = svg.getBoundingClientRect();
    const step = scale.step(((event.clientX - box.left) / box.width) * CHART.width);
    return steps.reduce((best, value, i) => (Math.abs(value - step) < Math.abs(steps[best] - step) ? i : best), 0);
  };
  svg.addEventListener("pointermove", (event) => read(nearest(event)));
  svg.addEventListener("pointerleave", () => read(null));
  svg.addEventListener("blur", () => read(null));
  svg.addEventListener("click", (event) => onStep(steps[nearest(event)]));
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (move) read(at === null ? (move > 0 ? 0 : steps.length - 1) : Math.min(steps.length - 1, Math.max(0, at + move)));
    else if (event.key === "Enter" && at !== null) onStep(steps[at]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  return h("figure", { class: "chart" }, h("figcaption", {}, panel.title, stepReading), keys, svg);
}

/** The view of all curves. onStep: called with a step that the reader asked for. */
function buildCurves(root, onStep) {
  const names = [...new Set(DATA.runs.flatMap((run) => Object.keys(run.series)))].sort();
  if (!names.length) {
    root.append(h("p", { class: "empty" }, "No metrics and no evaluations yet: the run has not finished a step."));
    return;
  }
  const grid = h("div", { class: "charts" });
  const added = [];
  const draw = () => grid.replaceChildren(...[...added, ...DATA.panels].map((panel) => chart(panel, onStep)));
  const picker = h("input", {
    type: "search", list: "metric-names", id: "metric", placeholder: "any metric of metrics.jsonl",
    autocomplete: "off", size: 34,
    change: () => {
      if (!names.includes(picker.value)) return;
      const series = [{ name: picker.value, label: picker.value, role: null }];
      added.unshift({ title: picker.value, unit: "value", bounds: [null, null], series });
      picker.value = "";
      draw();
    },
  });
  const slider = h("input", {
    type: "range", id: "smoothing", min: 0, max: 0.95, step: 0.05, value: 0,
    input: () => {
      smoothing.factor = Number(slider.value);
      draw();
    },
  });
  root.append(
    h("div", { class: "bar" },
      h("label", {}, "Add a curve ", picker), h("datalist", { id: "metric-names" }, names.map((value) => h("option", { value }))),
      h("label", {}, "Smoothing ", slider),
      h("span", { class: "hint" }, "Bands are 95 % intervals unless the title says otherwise. ",
        TWO_RUNS ? "Solid is A, dashed is B." : "")),
    grid,
  );
  draw();
}
