// Elements, numbers, the data, the theme. Text of models goes into text nodes only.

const SVG = "http://www.w3.org/2000/svg";
const DATA = JSON.parse(document.getElementById("page-data").textContent);
const TWO_RUNS = DATA.runs.length > 1;
const LETTERS = ["A", "B"];

/** Set attributes: functions become listeners, true and false set and omit, the rest is text. */
function setAttributes(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  return element;
}

function append(element, children) {
  const present = children.flat(2).filter((child) => child !== null && child !== undefined && child !== false);
  element.append(...present);
  return element;
}

/** An HTML element with its attributes and children; strings become text nodes. */
function h(name, attributes = {}, ...children) {
  return append(setAttributes(document.createElement(name), attributes), children);
}

/** An SVG element with its attributes and children. */
function s(name, attributes = {}, ...children) {
  return append(setAttributes(document.createElementNS(SVG, name), attributes), children);
}

/** A number for a reader; a dash for none. */
function format(value) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en-US");
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

function plural(count, word) {
  return `${format(count)} ${word}${count === 1 ? "" : "s"}`;
}

/** The full record of an episode, read when it is wanted. */
function episodeDetail(run, number) {
  return JSON.parse(document.getElementById(`episode-${run}-${number}`).textContent);
}

function runName(run) {
  return TWO_RUNS ? `${LETTERS[run]} ${DATA.runs[run].name}` : DATA.runs[run].name;
}

const theme = {
  query: matchMedia("(prefers-color-scheme: dark)"),
  listeners: [],
  chosen() {
    return document.documentElement.dataset.theme;
  },
  isDark() {
    return this.chosen() ? this.chosen() === "dark" : this.query.matches;
  },
  toggle() {
    document.documentElement.dataset.theme = this.isDark() ? "light" : "dark";
    this.changed();
  },
  changed() {
    const button = document.getElementById("theme");
    button.replaceChildren(this.isDark() ? "Light" : "Dark", " ", h("kbd", {}, "t"));
    button.setAttribute("aria-label", `Use the ${this.isDark() ? "light" : "dark"} theme`);
    for (const listener of this.listeners) listener();
  },
};
