/* ---- Completions: prompts with filters, pages and colored tokens ---- */

const MAX_NATS = 5; // Of -log-prob, at which a token's color is strongest.

/* Filters by correctness: a label, and a test of the group's `correct` values. */
const CORRECTNESS = {
  "": ["any", () => true],
  correct: ["a correct completion", (values) => values.includes(true)],
  incorrect: ["an incorrect completion", (values) => values.includes(false)],
  mixed: ["correct and incorrect ones", (values) => values.includes(true)
    && values.includes(false)],
  all: ["correct ones only", (values) => values.every((value) => value === true)],
  none: ["incorrect ones only", (values) => values.every((value) => value === false)],
};

function largestAdvantage() {
  const sizes = data.completions.flatMap((row) =>
    row.samples.map((sample) => Math.abs(sample.advantage ?? 0)));
  return sizes.reduce((a, b) => Math.max(a, b), 0) || 1;
}

/* Token colors: a label, and the color of a sample's token. */
const COLORS = {
  logProb: ["log-prob", (sample, i) => {
    const value = sample.log_prob[i];
    if (value === null || !sample.sampled[i]) return "";
    return `rgba(var(--tint-warm), ${(0.6 * Math.min(1, -value / MAX_NATS)).toFixed(3)})`;
  }],
  advantage: ["advantage", (sample, i) => {
    if (sample.advantage === null || !sample.sampled[i]) return "";
    const kind = sample.advantage < 0 ? "warm" : "cool";
    const strength = 0.5 * Math.min(1, Math.abs(sample.advantage) / maxAdvantage);
    return `rgba(var(--tint-${kind}), ${strength.toFixed(3)})`;
  }],
  none: ["nothing", () => ""],
};

const maxAdvantage = largestAdvantage();
/* Color scales: the lower end, the hue, the swatches, the upper end. */
const SCALES = {
  logProb: ["probable", "warm", [0, 0.15, 0.3, 0.45, 0.6],
    `-log-prob of ${MAX_NATS} nats or more`],
  advantage: [`advantage −${shortNumber(maxAdvantage, 3)}`, "both",
    [-0.5, -0.25, 0, 0.25, 0.5], `+${shortNumber(maxAdvantage, 3)}`],
};

function selection(name, label, options) {
  const select = element("select", { name, "aria-label": label });
  for (const [value, text] of options) {
    select.append(element("option", { value }, text));
  }
  return select;
}

function tokenElement(sample, text, i, coloring) {
  const value = sample.log_prob[i];
  const kind = sample.sampled[i] ? "piece" : "piece forced";
  const span = element("span", { class: kind }, text);
  if (!sample.sampled[i]) span.title = "not sampled: the environment's reply";
  else if (value !== null) {
    const percent = shortNumber(100 * Math.exp(value), 3);
    span.title = `log-prob ${shortNumber(value, 4)}, p = ${percent}%`;
  }
  span.style.backgroundColor = COLORS[coloring][1](sample, i);
  return span;
}

function sampleElement(sample, coloring, dimmed) {
  const verdict = sample.correct === null ? ["", "not scored"]
    : sample.correct ? ["correct", "✓ correct"] : ["incorrect", "✗ incorrect"];
  const notes = [sample.terminated ? "" : "truncated",
    sample.valid ? "" : "not in the loss"];
  const head = element("h4", {}, element("b", { class: verdict[0] }, verdict[1]),
    element("span", {}, notes.filter(Boolean).join(", ")));
  const rewards = element("dl");
  const numbers = { total: sample.total, ...sample.rewards, advantage: sample.advantage };
  if (sample.rewards.total !== undefined) numbers.total = sample.total;
  for (const [name, value] of Object.entries(numbers)) {
    rewards.append(element("div", {}, element("dt", {}, name),
      element("dd", {}, formatValue(value, ""))));
  }
  const text = element("div", { class: "text" },
    ...sample.pieces.map((one, i) => tokenElement(sample, one, i, coloring)));
  return element("div", { class: `sample${dimmed ? " dimmed" : ""}` }, head, rewards, text);
}

class CompletionBrowser {
  constructor(root) {
    const rows = data.completions;
    const steps = [...new Set(rows.map((row) => row.step))].sort((a, b) => a - b);
    const runs = [...new Set(rows.map((row) => row.run))];
    this.page = 0;
    this.text = element("input", { type: "search", name: "text",
      placeholder: "in prompt or completion" });
    this.step = selection("step", "Step",
      [["", "all"], ...steps.map((step) => [step, String(step)])]);
    this.correctness = selection("correctness", "Correctness",
      Object.entries(CORRECTNESS).map(([value, [text]]) => [value, text]));
    this.run = selection("run", "Run", [["", "all"], ...runs.map((run) => [run, run])]);
    this.coloring = selection("coloring", "Color tokens by",
      Object.entries(COLORS).map(([value, [text]]) => [value, text]));
    this.size = selection("size", "Prompts per page", [[5, "5"], [10, "10"], [25, "25"]]);
    this.count = element("span", { class: "count", role: "status" });
    this.back = element("button", { name: "back", "aria-label": "Previous page" }, "‹");
    this.next = element("button", { name: "next", "aria-label": "Next page" }, "›");
    const named = [["Text", this.text], ["Step", this.step],
      ["Correctness", this.correctness], ["Color tokens by", this.coloring],
      ["Prompts per page", this.size]];
    if (runs.length > 1) named.unshift(["Run", this.run]);
    const tools = element("div", { class: "tools" },
      ...named.map(([label, input]) => element("label", {}, label, input)),
      element("div", { class: "pager" }, this.count, this.back, this.next));
    this.scale = element("div", { class: "scale" });
    this.list = element("div", { class: "rows" });
    root.append(element("h2", {}, "Completions"), this.introduction(), tools, this.scale,
      this.list);
    for (const input of [this.text, this.step, this.correctness, this.run, this.size]) {
      input.addEventListener("input", () => { this.page = 0; this.draw(); });
    }
    this.coloring.addEventListener("input", () => this.draw());
    this.back.addEventListener("click", () => { this.page -= 1; this.draw(); });
    this.next.addEventListener("click", () => { this.page += 1; this.draw(); });
    this.draw();
  }

  introduction() {
    const kept = data.completions.length;
    const all = kept === data.logged ? "" : `${kept} of ${data.logged} logged prompts,
      evenly spaced; completions.jsonl has all. `;
    return element("p", {}, `${all}Each prompt with the completions of its group side by
      side. Completions that do not match the filters are dimmed.`);
  }

  /* Whether a sample matches the filters. */
  matches(row, sample, text) {
    const wanted = { correct: true, incorrect: false }[this.correctness.value];
    if (wanted !== undefined && sample.correct !== wanted) return false;
    return !text || sample.text.toLowerCase().includes(text)
      || row.prompt.toLowerCase().includes(text);
  }

  get filtered() {
    const text = this.text.value.trim().toLowerCase();
    const accept = CORRECTNESS[this.correctness.value][1];
    return data.completions.filter((row) =>
      (!this.run.value || row.run === this.run.value)
      && (!this.step.value || row.step === Number(this.step.value))
      && accept(row.samples.map((sample) => sample.correct))
      && row.samples.some((sample) => this.matches(row, sample, text)));
  }

  draw() {
    const found = this.filtered, size = Number(this.size.value);
    const pages = Math.max(1, Math.ceil(found.length / size));
    this.page = Math.min(this.page, pages - 1);
    const first = this.page * size;
    const shown = found.slice(first, first + size);
    const all = `${found.length} prompt${found.length === 1 ? "" : "s"}`;
    this.count.textContent = pages > 1
      ? `${first + 1}–${first + shown.length} of ${all}` : all;
    this.back.disabled = this.page === 0;
    this.next.disabled = this.page >= pages - 1;
    this.drawScale();
    this.list.replaceChildren(...shown.map((row) => this.row(row)));
    if (!found.length) {
      this.list.append(element("p", { class: "empty" }, "No prompt matches."));
    }
  }

  row(row) {
    const text = this.text.value.trim().toLowerCase();
    const head = element("header", {}, element("span", {}, `step ${row.step}`));
    if (this.run.options.length > 2) head.append(element("span", {}, row.run));
    const correct = row.samples.filter((sample) => sample.correct).length;
    head.append(element("span", {}, `${correct} of ${row.samples.length} correct`));
    return element("div", { class: "row" }, head,
      element("div", { class: "prompt" }, row.prompt),
      element("div", { class: "samples" }, ...row.samples.map((sample) =>
        sampleElement(sample, this.coloring.value, !this.matches(row, sample, text)))));
  }

  drawScale() {
    const scale = SCALES[this.coloring.value];
    this.scale.replaceChildren();
    if (!scale) return;
    const swatches = element("span", { class: "swatches" });
    for (const strength of scale[2]) {
      const box = element("i");
      const kind = scale[1] === "both" ? (strength < 0 ? "warm" : "cool") : scale[1];
      box.style.backgroundColor = `rgba(var(--tint-${kind}), ${Math.abs(strength)})`;
      swatches.append(box);
    }
    this.scale.append(scale[0], swatches, scale[3]);
  }
}

drawCurves();
if (data.completions.length) new CompletionBrowser(document.getElementById("completions"));
else {
  document.getElementById("completions").append(element("h2", {}, "Completions"),
    element("p", { class: "empty" }, "No completions were logged."));
}
