/* ---- Curves: one chart for each panel ---- */

const SIZE = { height: 190, left: 50, right: 12, top: 10, bottom: 24 };
const charts = [];

function extent(curves) {
  let low = Infinity, high = -Infinity;
  for (const curve of curves) {
    for (const value of [curve.values, curve.low ?? [], curve.high ?? []].flat()) {
      if (value === null) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  if (low > high) return [0, 1];
  if (low >= 0 && low < high / 2) low = 0;
  const margin = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return [low === 0 ? 0 : low - margin, high + margin];
}

/* A polyline, interrupted where a value is null. */
function linePath(xs, ys) {
  let text = "", pen = "M";
  xs.forEach((x, i) => {
    if (ys[i] === null) { pen = "M"; return; }
    text += `${pen}${x.toFixed(1)} ${ys[i].toFixed(1)}`;
    pen = "L";
  });
  return text;
}

function bandPath(xs, lows, highs) {
  let text = "", start = 0;
  for (let i = 0; i <= xs.length; i++) {
    if (i < xs.length && lows[i] !== null && highs[i] !== null) continue;
    if (i > start) {
      const part = xs.slice(start, i), up = highs.slice(start, i);
      const down = lows.slice(start, i);
      text += linePath(part, up) + linePath(part.toReversed(), down.toReversed())
        .replace("M", "L") + "Z";
    }
    start = i + 1;
  }
  return text;
}

class Chart {
  constructor(panel) {
    this.panel = panel;
    this.hidden = new Set();
    this.svg = svgElement("svg",
      { role: "img", tabindex: "0", "aria-label": this.ariaLabel() });
    const caption = element("figcaption", {}, panel.title);
    if (panel.unit && panel.unit !== "share") {
      caption.append(element("span", {}, panel.unit));
    }
    this.figure = element("figure", { class: "panel", id: `panel-${panel.name}` }, caption,
      this.legend(), this.svg);
    this.figure.append(element("p", { class: "note" }, panel.note));
    this.svg.addEventListener("pointermove", (event) => this.onPointerMove(event));
    this.svg.addEventListener("pointerleave", hideTooltip);
    this.svg.addEventListener("blur", hideTooltip);
    this.svg.addEventListener("keydown", (event) => this.onKeyDown(event));
    new ResizeObserver(() => this.draw()).observe(this.figure);
  }

  ariaLabel() {
    const last = this.panel.curves.map((curve) =>
      `${curve.label}: ${formatValue(curve.values.at(-1), this.panel.unit)}`);
    return `${this.panel.title}, last values: ${last.join("; ")}`;
  }

  legend() {
    const box = element("div", { class: "legend" });
    if (this.panel.curves.length < 2) {
      box.append(element("span", { class: "note" }, this.panel.curves[0].label));
      return box;
    }
    this.panel.curves.forEach((curve, i) => {
      const button = element("button", {
        class: `s${curve.color % 7}${curve.faint ? " faint" : ""}`,
        "aria-pressed": "true",
      }, curve.label);
      button.addEventListener("click", () => {
        if (!this.hidden.delete(i)) this.hidden.add(i);
        button.setAttribute("aria-pressed", String(!this.hidden.has(i)));
        this.draw();
      });
      box.append(button);
    });
    return box;
  }

  get visible() { return this.panel.curves.filter((_, i) => !this.hidden.has(i)); }

  get steps() {
    const all = this.visible.flatMap((curve) => curve.steps);
    return [...new Set(all)].sort((a, b) => a - b);
  }

  draw() {
    const width = this.svg.clientWidth;
    if (!width) return;
    const { height, left, right, top, bottom } = SIZE;
    const curves = this.visible, steps = this.steps;
    const [low, high] = extent(curves);
    let [first, last] = steps.length ? [steps[0], steps.at(-1)] : [0, 1];
    if (first === last) { first -= 1; last += 1; }
    this.x = (step) => left + (step - first) / (last - first) * (width - left - right);
    this.y = (value) => value === null ? null
      : height - bottom - (value - low) / (high - low) * (height - top - bottom);
    const drawn = [];
    const levels = ticks(low, high, 5);
    for (const value of levels) {
      const y = this.y(value);
      drawn.push(svgElement("line",
        { class: "rule", x1: left, x2: width - right, y1: y, y2: y }));
      drawn.push(svgElement("text", { x: left - 6, y: y + 4, "text-anchor": "end" },
        formatValue(value, this.panel.unit, digitsForTicks(levels))));
    }
    for (const step of ticks(first, last, Math.min(6, width / 70), true)) {
      drawn.push(svgElement("text",
        { x: this.x(step), y: height - 6, "text-anchor": "middle" }, String(step)));
    }
    drawn.push(...curves.flatMap((curve) => this.curve(curve)));
    this.cursor = svgElement("line", { class: "cursor", y1: top, y2: height - bottom,
      visibility: "hidden" });
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.replaceChildren(...drawn, this.cursor);
  }

  curve(curve) {
    const color = `s${curve.color % 7}`;
    const xs = curve.steps.map(this.x), ys = curve.values.map(this.y);
    const drawn = [];
    if (curve.low && curve.high) {
      const lows = curve.low.map(this.y), highs = curve.high.map(this.y);
      drawn.push(svgElement("path", { class: `band ${color}`, d: bandPath(xs, lows, highs) }));
      if (curve.dots) {
        const bars = xs.map((x, i) => lows[i] === null || highs[i] === null ? ""
          : `M${x} ${lows[i]}V${highs[i]}`);
        drawn.push(svgElement("path", { class: `whisker ${color}`, d: bars.join("") }));
      }
    }
    const faint = curve.faint ? " faint" : "";
    drawn.push(svgElement("path", { class: `curve ${color}${faint}`, d: linePath(xs, ys) }));
    if (curve.dots || curve.steps.length === 1) {
      ys.forEach((y, i) => y !== null && drawn.push(
        svgElement("circle", { class: `dot ${color}`, cx: xs[i], cy: y, r: 3 })));
    }
    return drawn;
  }

  onPointerMove(event) {
    const steps = this.steps;
    if (!steps.length) return;
    const x = event.clientX - this.svg.getBoundingClientRect().left;
    const distance = (step) => Math.abs(this.x(step) - x);
    const step = steps.reduce((best, other) =>
      distance(other) < distance(best) ? other : best);
    this.showTooltip(step, event.clientX, event.clientY);
  }

  onKeyDown(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const steps = this.steps;
    if (!move || !steps.length) return;
    event.preventDefault();
    const current = steps.indexOf(this.at);
    const next = current < 0 ? steps.length - 1
      : Math.max(0, Math.min(steps.length - 1, current + move));
    const box = this.svg.getBoundingClientRect();
    this.showTooltip(steps[next], box.left + this.x(steps[next]), box.top + 20);
  }

  showTooltip(step, x, y) {
    this.at = step;
    for (const chart of charts) chart.moveCursor(step);
    const lines = [];
    for (const curve of this.visible) {
      const i = curve.steps.indexOf(step);
      if (i < 0) continue;
      let value = formatValue(curve.values[i], this.panel.unit);
      if (curve.low && curve.high) {
        const ends = [curve.low[i], curve.high[i]];
        value += ` (${ends.map((end) => formatValue(end, this.panel.unit)).join(" to ")})`;
      }
      lines.push(element("div", { class: `s${curve.color % 7}` },
        element("span", {}, curve.label), element("span", {}, value)));
    }
    tip.replaceChildren(element("b", {}, `step ${step}`), ...lines);
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const fits = innerWidth - x > box.width + 24;
    tip.style.left = `${Math.max(4, fits ? x + 14 : x - box.width - 14)}px`;
    tip.style.top = `${Math.max(4, Math.min(y + 14, innerHeight - box.height - 4))}px`;
  }

  moveCursor(step) {
    if (!this.cursor) return;
    const x = this.x(step), inside = step !== null && x >= SIZE.left - 1
      && x <= this.svg.clientWidth - SIZE.right + 1;
    this.cursor.setAttribute("visibility", inside ? "visible" : "hidden");
    if (!inside) return;
    this.cursor.setAttribute("x1", x);
    this.cursor.setAttribute("x2", x);
  }
}

function hideTooltip() {
  tip.hidden = true;
  for (const chart of charts) chart.moveCursor(null);
}

function drawCurves() {
  const root = document.getElementById("curves");
  let section = null, grid = null;
  if (data.panels.length) root.append(element("h2", {}, "Curves"));
  for (const panel of data.panels) {
    if (panel.section !== section) {
      section = panel.section;
      grid = element("div", { class: "grid" });
      root.append(element("h3", {}, section), grid);
    }
    const chart = new Chart(panel);
    charts.push(chart);
    grid.append(chart.figure);
  }
}
