// All scores of one feature: a row for each scorer's main metric, which unfolds to all its metrics; a table for each label.

/** Nothing where nobody has scored. `groups`: by label, as the feature's page has them. */
function allScores(groups) {
  if (!groups.length) return null;
  const tables = groups.map(labelScores);
  const buttons = tables.flatMap((table) => [...table.querySelectorAll(".unfold")]);
  const all = el("button", { type: "button", class: "quiet", "aria-pressed": "false" }, "all metrics");
  all.addEventListener("click", () => {
    const open = all.getAttribute("aria-pressed") !== "true";
    all.setAttribute("aria-pressed", String(open));
    for (const button of buttons) unfold(button, open);
  });
  const note = "95 % intervals over contexts. By chance (dashed): what a label without information gets. Shuffled (hollow): the label of another feature.";
  const head = el("header", {}, el("h2", {}, "All scores ", el("small", {}, note)), buttons.length ? all : null);
  return el("section", { class: "card all-scores", "aria-label": "All scores" }, head, ...tables);
}

function labelScores({ label, model, shown, scorers }) {
  const by = label === null ? "label unknown" : `${label}${model === null ? "" : `, ${model}`}`;
  const head = ["Scorer", "Score", "95 % interval", "", "By chance", "Shuffled", "n"].map(headCell);
  const axis = scoreAxis(scorers);
  return el(
    "div",
    {},
    shown ? null : el("h3", {}, "Another label: ", bdi(by)),
    el("table", { class: "by-scorer" }, el("thead", {}, el("tr", {}, ...head)), ...scorers.map((scorer) => scorerRows(scorer, axis))),
  );
}

function headCell(name) {
  if (name === "") return el("td", { class: "c-chart" });
  const title = name === "n" ? "contexts, texts or questions that were answered" : null;
  const kind = { Scorer: "", "95 % interval": "c-interval", n: "number c-n" }[name] ?? "number";
  return el("th", { scope: "col", class: kind, title }, name);
}

function scorerRows({ scorer, simulator, ok, failed, label, metrics }, axis) {
  const [first, ...rest] = metrics;
  const body = el("tbody");
  const controls = metrics.filter((line) => Object.keys(line.others).length);
  const named = simulator === "" ? scorer : `${scorer} by ${simulator}`;
  const folded = rest.length || controls.length;
  const name = folded ? el("button", { type: "button", class: "unfold", "aria-expanded": "false" }, el("span", {}, ...breakable(named))) : el("span", { class: "plainly-named" }, ...breakable(named));
  const count_ = el("td", { class: "number c-n" }, count(ok), failed ? el("small", { class: "problem" }, `${count(failed)} failed`) : null);
  const metric = el("small", { class: "plainly-named" }, ...breakable(first.metric), label ? null : " · of the feature, reads no label");
  body.append(el("tr", { class: "main", title: first.note }, el("th", { scope: "row" }, name, metric), ...cells(first, axis), count_));
  const more = [
    ...rest.map((line) => el("tr", { class: "more", title: line.note }, el("th", { scope: "row" }, ...breakable(line.metric)), ...cells(line, axis), el("td", { class: "c-n" }))),
    ...controls.map((line) => el("tr", { class: "more" }, el("td", { colspan: 7, class: "note" }, `${line.metric} of other controls: ${controlWords(line.others)}`))),
  ];
  for (const row of more) row.hidden = true;
  body.append(...more);
  if (folded) name.addEventListener("click", () => unfold(name, name.getAttribute("aria-expanded") !== "true"));
  return body;
}

function unfold(button, open) {
  button.setAttribute("aria-expanded", String(open));
  for (const row of button.closest("tbody").querySelectorAll(".more")) row.hidden = !open;
}

const controlWords = (others) => Object.entries(others).map(([name, value]) => `${name} ${fixed(value)}`).join("; ");

/** A name that may break after its underscores. */
const breakable = (name) => name.split("_").flatMap((word, n) => (n ? ["_", el("wbr"), word] : [word]));

function cells(line, axis) {
  if (line.value === null) return [el("td", { colspan: 5 }, el("span", { class: "problem" }, bdi(line.problem)))];
  return [
    el("td", { class: "number value", "data-of": "score" }, fixed(line.value)),
    el("td", { class: "c-interval", "data-of": "interval" }, interval(line.lo, line.hi) || "–"),
    el("td", { class: "c-chart" }, scoreBar(line, axis, 120, 18)),
    el("td", { class: "number", "data-of": "chance" }, fixed(line.chance)),
    el("td", { class: "number", "data-of": "shuffled" }, fixed(line.shuffled)),
  ];
}

/** From 0, or below where a main score or its interval goes there, to 1. */
function scoreAxis(scorers) {
  const values = scorers.flatMap(({ metrics: [first] }) => [first.value, first.lo, first.shuffled]);
  return { low: Math.max(-1, Math.floor(Math.min(0, ...values.filter((value) => value !== null)) * 5) / 5), high: 1 };
}

/** A score with its interval, the level of chance (dashed) and the shuffled label (hollow); nothing where it goes off the axis. */
function scoreBar(line, { low, high }, width, height) {
  const ends = [line.value, line.lo ?? line.value, line.hi ?? line.value, line.shuffled ?? line.value];
  if (Math.min(...ends) < low || Math.max(...ends) > high) return null;
  const pad = 5;
  const at = (value) => pad + ((value - low) / (high - low)) * (width - 2 * pad);
  const middle = height / 2;
  const chart = svg("svg", { class: "whisker", viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" });
  chart.append(svg("line", { class: "rail", x1: at(low), x2: at(high), y1: middle, y2: middle }));
  if (line.chance !== null) chart.append(svg("line", { class: "chance", x1: at(line.chance), x2: at(line.chance), y1: 1, y2: height - 1 }));
  if (line.shuffled !== null) {
    const x = at(line.shuffled);
    chart.append(svg("path", { class: "control", d: `M${x - 4} ${middle}L${x} ${middle - 4}L${x + 4} ${middle}L${x} ${middle + 4}Z` }));
  }
  if (line.lo !== null && line.hi !== null) chart.append(svg("line", { class: "interval", x1: at(line.lo), x2: at(line.hi), y1: middle, y2: middle }));
  chart.append(svg("circle", { class: "score", cx: at(line.value), cy: middle, r: 3.5 }));
  return chart;
}
