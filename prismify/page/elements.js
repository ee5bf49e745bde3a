"use strict";
// Elements are made with text, never with markup: what a model or a file is called stays a name.

const SVG = "http://www.w3.org/2000/svg";

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

const make = (tag, attributes, ...children) => filled(document.createElement(tag), attributes, children);
const draw = (tag, attributes, ...children) => filled(document.createElementNS(SVG, tag), attributes, children);
const byId = (id) => document.getElementById(id);

function show(id, ...children) {
  byId(id).append(...children.flat().filter(Boolean));
  byId(id).hidden = false;
}

// Three figures, as the terminal and report.md have them: 860M, 29.6K, 27.
function human(number) {
  for (const [size, unit] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "K"]]) {
    if (number < size) continue;
    const scaled = number / size;
    return (scaled >= 999.5 ? scaled.toFixed(0) : String(Number(scaled.toPrecision(3)))) + unit;
  }
  return String(Number(Number(number).toPrecision(6)));
}

const exact = (number) => Number(number).toLocaleString("en");

function ratioText(before, after) {
  if (!after) return before ? "–" : "";
  const ratio = before / after;
  return (ratio >= 100 ? ratio.toFixed(0) : ratio >= 10 ? ratio.toFixed(1) : ratio.toFixed(2)) + "×";
}

function figures(number) {
  if (number === null || number === undefined) return "not a number";
  if (number === 0) return "0";
  const size = Math.abs(number);
  return size >= 1e-3 && size < 1e5 ? String(Number(number.toPrecision(4))) : number.toExponential(2);
}

const times = (numbers) => (numbers && numbers.length ? numbers.join("×") : "");

// A name that may break behind its dots, where lines are short; what holds it says it whole in its aria-label.
function breakable(name) {
  return name.split(/(?<=[._])/).flatMap((part, number) => (number ? [make("wbr"), part] : [part]));
}

function plainTable(caption, headings, rows, numbers) {
  const kind = (place) => (numbers.includes(place) ? "number" : null);
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    make("table", { class: "plain" },
      make("caption", {}, make("span", {}, caption)),
      make("thead", {}, make("tr", {}, headings.map((text, place) => make("th", { scope: "col", class: kind(place) }, text)))),
      make("tbody", {}, rows.map((cells) => make("tr", {}, cells.map((cell, place) =>
        make(place ? "td" : "th", { class: kind(place), scope: place ? null : "row" }, cell)))))));
}

// Radio buttons in a row; `chosen` is called with the value.
function choice(name, legend, options, value, chosen) {
  return make("fieldset", {}, make("legend", {}, legend),
    make("div", { class: "choice" }, Object.entries(options).map(([key, text]) =>
      make("label", {},
        make("input", { type: "radio", name, value: key, checked: key === value, onchange: () => chosen(key) }),
        make("span", {}, text)))));
}

// The rows of a table that was packed in columns, see prismify/page/document.py.
function unpacked(columns) {
  const whole = Object.entries(columns).map(([key, { values, rows }]) =>
    [key, rows === null ? values : rows.map((number) => values[number])]);
  const count = whole.length ? whole[0][1].length : 0;
  return Array.from({ length: count }, (_, row) => Object.fromEntries(whole.map(([key, values]) => [key, values[row]])));
}
