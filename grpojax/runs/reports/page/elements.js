"use strict";

/* Shared by the scripts below: the page's data, elements and number formats. */

const data = JSON.parse(document.getElementById("data").textContent);
const tip = document.getElementById("tip");

/* An HTML element. Text is always set as text: no completion becomes markup. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/* An SVG element. */
function svgElement(tag, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

/* ---- Numbers ---- */

function shortNumber(value, digits) {
  const size = Math.abs(value);
  if (size >= 1e6) return Number((value / 1e6).toPrecision(digits)) + "M";
  if (size >= 1e4) return Number((value / 1e3).toPrecision(digits)) + "k";
  if (size > 0 && size < 1e-3) return value.toExponential(Math.min(2, digits - 1));
  return String(Number(value.toPrecision(digits)));
}

function formatValue(value, unit, digits = 4) {
  if (value === null || value === undefined) return "–";
  return unit === "share" ? shortNumber(100 * value, Math.max(3, digits - 1)) + "%"
    : shortNumber(value, digits);
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

/* The number of digits that distinguishes tick labels. */
function digitsForTicks(levels) {
  if (levels.length < 2) return 4;
  const largest = Math.max(...levels.map(Math.abs));
  const ratio = largest / (levels[1] - levels[0]);
  return Math.max(3, Math.min(9, Math.ceil(Math.log10(ratio)) + 2));
}
