"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const tip = document.getElementById("tip");

/* An element. Text is only ever set as text: nothing in a completion becomes markup. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function shape(tag, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

/* ---- Numbers ---- */

function short(value, digits) {
  const size = Math.abs(value);
  if (size >= 1e6) return Number((value / 1e6).toPrecision(digits)) + "M";
  if (size >= 1e4) return Number((value / 1e3).toPrecision(digits)) + "k";
  if (size > 0 && size < 1e-3) return value.toExponential(Math.min(2, digits - 1));
  return String(Number(value.toPrecision(digits)));
}

function format(value, unit, digits = 4) {
  if (value === null || value === undefined) return "–";
  return unit === "share" ? short(100 * value, Math.max(3, digits - 1)) + "%"
    : short(value, digits);
}

function ticks(low, high, count, whole = false) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  let step = [1, 2, 2.5, 5, 10].map((x) => x * power).find((x) => x >= raw * 0.999);
  if (whole) step = Math.max(1, Math.round(step));
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) {
    found.push(Number((i * step).toPrecision(12)));
  }
  return found;
}

/* How many digits tell levels apart. */
function digitsBetween(levels) {
  if (levels.length < 2) return 4;
  const largest = Math.max(...levels.map(Math.abs));
  const ratio = largest / (levels[1] - levels[0]);
  return Math.max(3, Math.min(9, Math.ceil(Math.log10(ratio)) + 2));
}

/* ---- Curves ---- */

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
  const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return [low === 0 ? 0 : low - room, high + room];
}

/* A line that breaks where nothing was recorded. */
function path(xs, ys) {
  let text = "", pen = "M";
  xs.forEach((x, i) => {
    if (ys[i] === null) { pen = "M"; return; }
    text += `${pen}${x.toFixed(1)} ${ys[i].toFixed(1)}`;
    pen = "L";
  });
  return text;
}

function band(xs, lows, highs) {
  let text = "", start = 0;
  for (let i = 0; i <= xs.length; i++) {
    if (i < xs.length && lows[i] !== null && highs[i] !== null) continue;
    if (i > start) {
      const there = xs.slice(start, i), up = highs.slice(start, i);
      const down = lows.slice(start, i);
      text += path(there, up) + path(there.toReversed(), down.toReversed())
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
    this.svg = shape("svg", { role: "img", tabindex: "0", "aria-label": this.spoken() });
    const caption = element("figcaption", {}, panel.title);
    if (panel.unit && panel.unit !== "share") {
      caption.append(element("span", {}, panel.unit));
    }
    this.figure = element("figure", { class: "panel", id: `panel-${panel.name}` }, caption,
      this.legend(), this.svg);
    this.figure.append(element("p", { class: "note" }, panel.note));
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", leave);
    this.svg.addEventListener("blur", leave);
    this.svg.addEventListener("keydown", (event) => this.walk(event));
    new ResizeObserver(() => this.draw()).observe(this.figure);
  }

  spoken() {
    const last = this.panel.curves.map((curve) =>
      `${curve.label}: ${format(curve.values.at(-1), this.panel.unit)}`);
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

  get shown() { return this.panel.curves.filter((_, i) => !this.hidden.has(i)); }

  get steps() {
    const all = this.shown.flatMap((curve) => curve.steps);
    return [...new Set(all)].sort((a, b) => a - b);
  }

  draw() {
    const width = this.svg.clientWidth;
    if (!width) return;
    const { height, left, right, top, bottom } = SIZE;
    const curves = this.shown, steps = this.steps;
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
      drawn.push(shape("line", { class: "rule", x1: left, x2: width - right, y1: y, y2: y }));
      drawn.push(shape("text", { x: left - 6, y: y + 4, "text-anchor": "end" },
        format(value, this.panel.unit, digitsBetween(levels))));
    }
    for (const step of ticks(first, last, Math.min(6, width / 70), true)) {
      drawn.push(shape("text", { x: this.x(step), y: height - 6, "text-anchor": "middle" },
        String(step)));
    }
    drawn.push(...curves.flatMap((curve) => this.curve(curve)));
    this.cursor = shape("line", { class: "cursor", y1: top, y2: height - bottom,
      visibility: "hidden" });
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.replaceChildren(...drawn, this.cursor);
  }

  curve(curve) {
    const mark = `s${curve.color % 7}`;
    const xs = curve.steps.map(this.x), ys = curve.values.map(this.y);
    const drawn = [];
    if (curve.low && curve.high) {
      const lows = curve.low.map(this.y), highs = curve.high.map(this.y);
      drawn.push(shape("path", { class: `band ${mark}`, d: band(xs, lows, highs) }));
      if (curve.dots) {
        const bars = xs.map((x, i) => lows[i] === null || highs[i] === null ? ""
          : `M${x} ${lows[i]}V${highs[i]}`);
        drawn.push(shape("path", { class: `whisker ${mark}`, d: bars.join("") }));
      }
    }
    const faint = curve.faint ? " faint" : "";
    drawn.push(shape("path", { class: `curve ${mark}${faint}`, d: path(xs, ys) }));
    if (curve.dots || curve.steps.length === 1) {
      ys.forEach((y, i) => y !== null && drawn.push(
        shape("circle", { class: `dot ${mark}`, cx: xs[i], cy: y, r: 3 })));
    }
    return drawn;
  }

  point(event) {
    const steps = this.steps;
    if (!steps.length) return;
    const x = event.clientX - this.svg.getBoundingClientRect().left;
    const away = (step) => Math.abs(this.x(step) - x);
    const step = steps.reduce((best, one) => away(one) < away(best) ? one : best);
    this.tell(step, event.clientX, event.clientY);
  }

  walk(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const steps = this.steps;
    if (!move || !steps.length) return;
    event.preventDefault();
    const here = steps.indexOf(this.at);
    const next = here < 0 ? steps.length - 1
      : Math.max(0, Math.min(steps.length - 1, here + move));
    const box = this.svg.getBoundingClientRect();
    this.tell(steps[next], box.left + this.x(steps[next]), box.top + 20);
  }

  tell(step, x, y) {
    this.at = step;
    for (const chart of charts) chart.mark(step);
    const lines = [];
    for (const curve of this.shown) {
      const i = curve.steps.indexOf(step);
      if (i < 0) continue;
      let value = format(curve.values[i], this.panel.unit);
      if (curve.low && curve.high) {
        const ends = [curve.low[i], curve.high[i]];
        value += ` (${ends.map((end) => format(end, this.panel.unit)).join(" to ")})`;
      }
      lines.push(element("div", { class: `s${curve.color % 7}` },
        element("span", {}, curve.label), element("span", {}, value)));
    }
    tip.replaceChildren(element("b", {}, `step ${step}`), ...lines);
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const room = innerWidth - x > box.width + 24;
    tip.style.left = `${Math.max(4, room ? x + 14 : x - box.width - 14)}px`;
    tip.style.top = `${Math.max(4, Math.min(y + 14, innerHeight - box.height - 4))}px`;
  }

  mark(step) {
    if (!this.cursor) return;
    const x = this.x(step), inside = step !== null && x >= SIZE.left - 1
      && x <= this.svg.clientWidth - SIZE.right + 1;
    this.cursor.setAttribute("visibility", inside ? "visible" : "hidden");
    if (!inside) return;
    this.cursor.setAttribute("x1", x);
    this.cursor.setAttribute("x2", x);
  }
}

function leave() {
  tip.hidden = true;
  for (const chart of charts) chart.mark(null);
}

function drawCurves() {
  const place = document.getElementById("curves");
  let section = null, grid = null;
  if (data.panels.length) place.append(element("h2", {}, "Curves"));
  for (const panel of data.panels) {
    if (panel.section !== section) {
      section = panel.section;
      grid = element("div", { class: "grid" });
      place.append(element("h3", {}, section), grid);
    }
    const chart = new Chart(panel);
    charts.push(chart);
    grid.append(chart.figure);
  }
}

/* ---- Completions ---- */

const UNLIKELY = 5; // Nats at which a token's tint is at its strongest.

const JUDGED = {
  "": ["any samples", () => true],
  right: ["a right sample", (rights) => rights.includes(true)],
  wrong: ["a wrong sample", (rights) => rights.includes(false)],
  mixed: ["right and wrong samples", (rights) => rights.includes(true)
    && rights.includes(false)],
  all: ["right samples only", (rights) => rights.every((right) => right === true)],
  none: ["wrong samples only", (rights) => rights.every((right) => right === false)],
};

function strongest() {
  const sizes = data.completions.flatMap((row) =>
    row.samples.map((sample) => Math.abs(sample.advantage ?? 0)));
  return sizes.reduce((a, b) => Math.max(a, b), 0) || 1;
}

const TINTS = {
  logProb: ["log-prob", (sample, i) => {
    const value = sample.log_probs[i];
    if (value === null || !sample.sampled[i]) return "";
    return `rgba(var(--tint-warm), ${(0.6 * Math.min(1, -value / UNLIKELY)).toFixed(3)})`;
  }],
  advantage: ["advantage", (sample, i) => {
    if (sample.advantage === null || !sample.sampled[i]) return "";
    const kind = sample.advantage < 0 ? "warm" : "cool";
    const strength = 0.5 * Math.min(1, Math.abs(sample.advantage) / strongestAdvantage);
    return `rgba(var(--tint-${kind}), ${strength.toFixed(3)})`;
  }],
  none: ["nothing", () => ""],
};

const strongestAdvantage = strongest();
const KEYS = {
  logProb: ["likely", "warm", [0, 0.15, 0.3, 0.45, 0.6], `${UNLIKELY} nats or more unlikely`],
  advantage: [`advantage −${short(strongestAdvantage, 3)}`, "both",
    [-0.5, -0.25, 0, 0.25, 0.5], `+${short(strongestAdvantage, 3)}`],
};

function selection(name, label, options) {
  const select = element("select", { name, "aria-label": label });
  for (const [value, text] of options) {
    select.append(element("option", { value }, text));
  }
  return select;
}

function piece(sample, text, i, tint) {
  const value = sample.log_probs[i];
  const span = element("span", { class: sample.sampled[i] ? "piece" : "piece given" }, text);
  if (!sample.sampled[i]) span.title = "not sampled";
  else if (value !== null) {
    span.title = `log-prob ${short(value, 4)}, p = ${short(100 * Math.exp(value), 3)}%`;
  }
  span.style.backgroundColor = TINTS[tint][1](sample, i);
  return span;
}

function describeSample(sample, tint, aside) {
  const verdict = sample.right === null ? ["", "not judged"]
    : sample.right ? ["right", "✓ right"] : ["wrong", "✗ wrong"];
  const notes = [sample.terminated ? "" : "cut short", sample.valid ? "" : "not valid"];
  const head = element("h4", {}, element("b", { class: verdict[0] }, verdict[1]),
    element("span", {}, notes.filter(Boolean).join(", ")));
  const facts = element("dl");
  const numbers = { total: sample.total, ...sample.rewards, advantage: sample.advantage };
  if (sample.rewards.total !== undefined) numbers.total = sample.total;
  for (const [name, value] of Object.entries(numbers)) {
    facts.append(element("div", {}, element("dt", {}, name),
      element("dd", {}, format(value, ""))));
  }
  const text = element("div", { class: "text" },
    ...sample.pieces.map((one, i) => piece(sample, one, i, tint)));
  return element("div", { class: `sample${aside ? " aside" : ""}` }, head, facts, text);
}

class Browser {
  constructor(place) {
    const rows = data.completions;
    const steps = [...new Set(rows.map((row) => row.step))].sort((a, b) => a - b);
    const runs = [...new Set(rows.map((row) => row.run))];
    this.page = 0;
    this.text = element("input", { type: "search", name: "text",
      placeholder: "in prompt or completion" });
    this.step = selection("step", "Step",
      [["", "all"], ...steps.map((step) => [step, String(step)])]);
    this.judged = selection("judged", "Judged",
      Object.entries(JUDGED).map(([value, [text]]) => [value, text]));
    this.run = selection("run", "Run", [["", "all"], ...runs.map((run) => [run, run])]);
    this.tint = selection("tint", "Tint tokens by",
      Object.entries(TINTS).map(([value, [text]]) => [value, text]));
    this.size = selection("size", "Prompts a page", [[5, "5"], [10, "10"], [25, "25"]]);
    this.count = element("span", { class: "count", role: "status" });
    this.back = element("button", { name: "back", "aria-label": "Previous page" }, "‹");
    this.next = element("button", { name: "next", "aria-label": "Next page" }, "›");
    const named = [["Text", this.text], ["Step", this.step], ["With", this.judged],
      ["Tint tokens by", this.tint], ["Prompts a page", this.size]];
    if (runs.length > 1) named.unshift(["Run", this.run]);
    const tools = element("div", { class: "tools" },
      ...named.map(([label, input]) => element("label", {}, label, input)),
      element("div", { class: "pager" }, this.count, this.back, this.next));
    this.key = element("div", { class: "key" });
    this.list = element("div", { class: "rows" });
    place.append(element("h2", {}, "Completions"), this.introduction(), tools, this.key,
      this.list);
    for (const input of [this.text, this.step, this.judged, this.run, this.size]) {
      input.addEventListener("input", () => { this.page = 0; this.draw(); });
    }
    this.tint.addEventListener("input", () => this.draw());
    this.back.addEventListener("click", () => { this.page -= 1; this.draw(); });
    this.next.addEventListener("click", () => { this.page += 1; this.draw(); });
    this.draw();
  }

  introduction() {
    const kept = data.completions.length;
    const all = kept === data.logged ? "" : `${kept} of the ${data.logged} logged, evenly
      chosen; completions.jsonl has the rest. `;
    return element("p", {}, `${all}Each prompt with the samples of its group side by side.
      Samples that a filter leaves out are paler.`);
  }

  /* Whether a sample is one that the filters mean. */
  meant(row, sample, text) {
    const wanted = { right: true, wrong: false }[this.judged.value];
    if (wanted !== undefined && sample.right !== wanted) return false;
    return !text || sample.text.toLowerCase().includes(text)
      || row.prompt.toLowerCase().includes(text);
  }

  get filtered() {
    const text = this.text.value.trim().toLowerCase();
    const judge = JUDGED[this.judged.value][1];
    return data.completions.filter((row) =>
      (!this.run.value || row.run === this.run.value)
      && (!this.step.value || row.step === Number(this.step.value))
      && judge(row.samples.map((sample) => sample.right))
      && row.samples.some((sample) => this.meant(row, sample, text)));
  }

  draw() {
    const found = this.filtered, size = Number(this.size.value);
    const pages = Math.max(1, Math.ceil(found.length / size));
    this.page = Math.min(this.page, pages - 1);
    const first = this.page * size;
    const here = found.slice(first, first + size);
    const all = `${found.length} prompt${found.length === 1 ? "" : "s"}`;
    this.count.textContent = pages > 1
      ? `${first + 1}–${first + here.length} of ${all}` : all;
    this.back.disabled = this.page === 0;
    this.next.disabled = this.page >= pages - 1;
    this.drawKey();
    this.list.replaceChildren(...here.map((row) => this.row(row)));
    if (!found.length) {
      this.list.append(element("p", { class: "empty" }, "No prompt is like that."));
    }
  }

  row(row) {
    const text = this.text.value.trim().toLowerCase();
    const head = element("header", {}, element("span", {}, `step ${row.step}`));
    if (this.run.options.length > 2) head.append(element("span", {}, row.run));
    const right = row.samples.filter((sample) => sample.right).length;
    head.append(element("span", {}, `${right} of ${row.samples.length} right`));
    return element("div", { class: "row" }, head,
      element("div", { class: "prompt" }, row.prompt),
      element("div", { class: "samples" }, ...row.samples.map((sample) =>
        describeSample(sample, this.tint.value, !this.meant(row, sample, text)))));
  }

  drawKey() {
    const key = KEYS[this.tint.value];
    this.key.replaceChildren();
    if (!key) return;
    const swatches = element("span", { class: "swatches" });
    for (const strength of key[2]) {
      const box = element("i");
      const kind = key[1] === "both" ? (strength < 0 ? "warm" : "cool") : key[1];
      box.style.backgroundColor = `rgba(var(--tint-${kind}), ${Math.abs(strength)})`;
      swatches.append(box);
    }
    this.key.append(key[0], swatches, key[3]);
  }
}

drawCurves();
if (data.completions.length) new Browser(document.getElementById("completions"));
else {
  document.getElementById("completions").append(element("h2", {}, "Completions"),
    element("p", { class: "empty" }, "No completions were logged."));
}
