// The table of features: filtered, sorted, one page of rows at a time. Its state can be linked: #?q=return&sort=gain.

const PAGE = 50;
const DENSITIES = [
  ["0-0.0001", "below 0.01 %"],
  ["0.0001-0.001", "0.01 % to 0.1 %"],
  ["0.001-0.01", "0.1 % to 1 %"],
  ["0.01-0.1", "1 % to 10 %"],
  ["0.1-2", "10 % and above"],
];
const DEFAULTS = { q: "", kind: "", flag: "", score: "", density: "", sort: "rank", down: "", page: "1" };
const state = { ...DEFAULTS };
const collator = new Intl.Collator("en");
let shown = features; // what the filters leave, in the order of the table

// `down`: the first click sorts downwards. Without a value a feature comes last, either way.
const ALL_COLUMNS = [
  { key: "rank", name: "Rank", number: true, title: "by the lower end of the score's interval", cell: rankCell },
  { key: "id", name: "Feature", number: true, cell: (feature) => String(feature.id) },
  { key: "title", name: "Label", cell: labelCell },
  { key: "kind", name: "Kind", cell: (feature) => (feature.kind === null ? "–" : bdi(feature.kind)) },
  { key: "score", name: "Score", down: true, title: "with its 95 % interval; the hollow mark is a shuffled label", cell: scoreCell },
  { key: "shuffled", name: "Shuffled", number: true, down: true, title: "score of another feature's label; of a sample of the features", cell: (feature) => fixed(feature.shuffled) },
  { key: "detection", name: "Detection", number: true, down: true, title: "balanced accuracy: is the feature active in this text? 0.5 is chance", cell: (feature) => fixed(feature.detection) },
  { key: "gain", name: "Lexical gain", number: true, down: true, title: "score minus that of the feature's own token list", cell: (feature) => fixed(feature.gain) },
  { key: "density", name: "Density", number: true, down: true, title: "share of tokens on which it fires", cell: (feature) => percent(feature.density) },
  { key: "max", name: "Max", number: true, down: true, title: "largest activation", cell: (feature) => short(feature.max) },
  { key: "flag", name: "Flag", cell: (feature) => (feature.flag === null ? "" : el("span", { class: "badge" }, feature.flag)) },
];

// A column without a single value is left out: before the scoring there is nothing to rank by.
const COLUMNS = ALL_COLUMNS.filter(({ key }) => ["title", "score"].includes(key) || columns[key].some((value) => value !== null));

function rankCell(feature) {
  if (feature.rank === null) return "–";
  if (feature.rankLo === null) return String(feature.rank);
  return [String(feature.rank), el("small", { title: "places that the interval leaves open" }, `${feature.rankLo}–${feature.rankHi}`)];
}

function labelCell(feature) {
  const title = feature.title === null ? el("span", { class: "none" }, "no label") : bdi(feature.title);
  const link = el("a", { href: `#feature-${feature.id}` }, title);
  const tokens = feature.tokens.length ? el("span", { class: "salient", title: "tokens it fires on most" }) : null;
  tokens?.append(...feature.tokens.map((token) => tokenChip(token)));
  return [link, tokens];
}

function scoreCell(feature) {
  if (feature.score === null) return problemOf(feature);
  return el("span", { class: "score-cell" }, el("span", { class: "value" }, fixed(feature.score)), whisker(feature, 110, 16, false));
}

/** Why there is no score. Only what went wrong is coloured; not to be scored yet, or to be dead, is no fault. */
function problemOf(feature) {
  const wrong = /^(undefined|failed|no label)/.test(feature.problem);
  return el("span", { class: wrong ? "problem" : "none" }, bdi(feature.problem));
}

function searchable(feature) {
  feature.words ??= [feature.title, feature.description, feature.id, ...feature.tokens].join("\n").toLowerCase();
  return feature.words;
}

function select() {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  const least = state.score === "" ? null : Number(state.score);
  const [thin, dense] = state.density ? state.density.split("-").map(Number) : [0, Infinity];
  const kept = features.filter(
    (feature) =>
      words.every((word) => searchable(feature).includes(word)) &&
      (state.kind === "" || feature.kind === state.kind) &&
      (state.flag === "" || (feature.flag ?? "none") === state.flag) &&
      (least === null || (feature.score !== null && feature.score >= least)) &&
      (state.density === "" || (feature.density >= thin && feature.density < dense)),
  );
  const sign = state.down ? -1 : 1;
  const key = state.sort;
  const compare = (a, b) => {
    if (a[key] === null || b[key] === null) return (a[key] === null) - (b[key] === null) || a.place - b.place;
    const order = typeof a[key] === "string" ? collator.compare(a[key], b[key]) : a[key] - b[key];
    return sign * order || a.place - b.place;
  };
  return kept.sort(compare);
}

/** Filter, sort and draw the page of rows that the state asks for. */
function refresh() {
  shown = select();
  const pages = Math.max(1, Math.ceil(shown.length / PAGE));
  const page = Math.min(pages, Math.max(1, Math.floor(Number(state.page)) || 1));
  state.page = String(page);
  const first = (page - 1) * PAGE;
  const rows = shown.slice(first, first + PAGE);
  byId("table").tBodies[0].replaceChildren(...(rows.length ? rows.map(tableRow) : [emptyRow()]));
  const range = rows.length ? `${count(first + 1)}–${count(first + rows.length)} of ` : "";
  const all = shown.length === features.length ? "" : ` (out of ${count(features.length)})`;
  byId("count").textContent = `${range}${count(shown.length)} ${shown.length === 1 ? "feature" : "features"}${all}`;
  for (const head of byId("table").tHead.rows[0].cells) {
    const sorted = head.dataset.key === state.sort;
    if (sorted) head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
  drawPager(page, pages);
}

function tableRow(feature) {
  const row = el("tr", { "data-id": feature.id });
  for (const column of COLUMNS) {
    const made = column.cell(feature);
    row.append(el("td", { class: `c-${column.key}${column.number ? " number" : ""}` }, ...(Array.isArray(made) ? made : [made])));
  }
  return row;
}

function emptyRow() {
  const words = features.length ? "No feature passes these filters." : "This catalog holds no features.";
  return el("tr", {}, el("td", { class: "empty", colspan: COLUMNS.length }, words));
}

function drawPager(page, pages) {
  const button = (to, text, label) => {
    const made = el("button", { type: "button", "aria-label": label, disabled: to < 1 || to > pages || to === page }, text);
    made.addEventListener("click", () => update({ page: String(to) }, true));
    return made;
  };
  const parts = [
    button(1, "«", "first page"), button(page - 1, "‹", "previous page"),
    el("span", {}, `page ${count(page)} of ${count(pages)}`),
    button(page + 1, "›", "next page"), button(pages, "»", "last page"),
  ];
  byId("pager").replaceChildren(...(pages > 1 ? parts : []));
}

/** Change the state, put it into the address and draw. Any change but that of the page starts at page 1. */
function update(change, toTop = false) {
  Object.assign(state, { page: "1" }, change);
  refresh();
  history.replaceState(null, "", stateHash());
  if (toTop) byId("features").scrollIntoView();
}

/** The state as an address. It always begins with #?, so that it is no feature's. */
function stateHash() {
  const changed = Object.entries(state).filter(([key, value]) => value !== DEFAULTS[key]);
  return `#?${new URLSearchParams(changed)}`;
}

function readState(hash) {
  const asked = new URLSearchParams(hash.slice(2));
  for (const key of Object.keys(DEFAULTS)) state[key] = asked.get(key) ?? DEFAULTS[key];
  if (!COLUMNS.some((column) => column.key === state.sort)) state.sort = DEFAULTS.sort;
  if (state.score !== "" && !Number.isFinite(Number(state.score))) state.score = "";
  if (!DENSITIES.some(([value]) => value === state.density)) state.density = "";
  for (const [key, input] of Object.entries(FILTERS)) byId(input).value = state[key];
}

const FILTERS = { q: "filter-text", kind: "filter-kind", flag: "filter-flag", score: "filter-score", density: "filter-density" };

function prepareTable() {
  const head = byId("table").tHead.rows[0];
  for (const column of COLUMNS) {
    const button = el("button", { type: "button", title: column.title }, column.name);
    button.addEventListener("click", () => {
      const down = state.sort === column.key ? !state.down : Boolean(column.down);
      update({ sort: column.key, down: down ? "1" : "" });
    });
    head.append(el("th", { scope: "col", class: `c-${column.key}${column.number ? " number" : ""}`, "data-key": column.key }, button));
  }
  const distinct = (key) => [...new Set(features.map((feature) => feature[key]).filter((value) => value !== null))].sort();
  byId("filter-kind").append(...distinct("kind").map((kind) => el("option", { value: kind }, kind)));
  byId("filter-flag").append(...[...distinct("flag"), "none"].map((flag) => el("option", { value: flag }, flag)));
  byId("filter-density").append(...DENSITIES.map(([value, words]) => el("option", { value }, words)));
  for (const [key, input] of Object.entries(FILTERS)) {
    byId(input).addEventListener("input", (event) => update({ [key]: event.target.value }));
  }
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filter-reset").addEventListener("click", () => {
    const { sort, down } = state;
    update({ ...DEFAULTS, sort, down });
    readState(stateHash());
  });
  byId("table").tBodies[0].addEventListener("click", (event) => {
    const row = event.target.closest("tr[data-id]");
    if (row && !event.target.closest("a") && !String(getSelection())) location.hash = `feature-${row.dataset.id}`;
  });
}
