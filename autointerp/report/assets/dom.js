// Elements are made here and only here. Text goes in as text nodes: nothing in this report parses data as HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") node.setAttribute("class", value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** An HTML element. Children are nodes or strings; null is left out. */
function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** An SVG element. */
function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

const byId = (id) => document.getElementById(id);

/** Text of strangers, kept from turning the text around it. */
const bdi = (text) => el("bdi", {}, text);

const MINUS = "\u2212";

/** A number with a true minus sign; a dash where there is none. */
function fixed(value, digits = 2) {
  if (value === null || value === undefined) return "–";
  const text = value.toFixed(digits);
  return Number(text) === 0 ? (0).toFixed(digits) : text.replace("-", MINUS);
}

/** A positive quantity of any size, to three significant digits. */
function short(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e6 || size < 1e-4 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
  return text.replace("-", MINUS);
}

const count = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en-US"));

/** A share of tokens, in percent. */
function percent(share) {
  if (share === null || share === undefined) return "–";
  return share === 0 ? "0 %" : `${short(share * 100)} %`;
}
