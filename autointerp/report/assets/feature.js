// The page of one feature.

const page = { whole: false, asked: null };

const GROUPS = [
  ["top", "Strongest", "the contexts with the largest peaks, of all splits"],
  ["band", "By strength", "a uniform draw from each band of its firing windows: what the strongest ones hide"],
  ["random", "Random", "a uniform draw from all windows in which it fires"],
  ["silent", "Silent, largest prediction", "it does not fire here; of the silent windows that were simulated, those where the label predicts most"],
];

/** Fetch and draw. A page that was left before its data came is not drawn. */
async function showFeature(feature) {
  page.asked = feature;
  const root = byId("detail");
  root.replaceChildren(navigation(feature), heading(feature), el("p", { class: "note" }, "Reading …"));
  let loaded;
  try {
    loaded = await loadFeature(feature);
  } catch (error) {
    root.lastChild.textContent = `The details cannot be read: ${error.message}. The browser must know DecompressionStream (2023 or later).`;
    return;
  }
  if (page.asked !== feature) return;
  root.replaceChildren(
    navigation(feature),
    heading(feature, loaded.detail),
    overviewCards(feature, loaded),
    allScores(loaded.detail.scores),
    el("div", { class: "detail-grid" }, contexts(feature, loaded), sidebar(feature, loaded)),
    el("p", { class: "keys" }, ...keys()),
  );
  root.querySelector("h1").focus({ preventScroll: true });
}

function keys() {
  const of = (...names) => names.map((name) => el("kbd", {}, name));
  return [...of("j", "k"), " next and previous ", ...of("w"), " whole windows ", ...of("Esc"), " all features ", ...of("←", "→"), " walk the tokens of a context"];
}

/** The features around this one: in the order of the table, or of the catalog if the filters leave it out. */
function neighboursInOrder(feature) {
  const order = shown.includes(feature) ? shown : features;
  const here = order.indexOf(feature);
  return { order, here, previous: order[here - 1] ?? null, next: order[here + 1] ?? null };
}

function navigation(feature) {
  const { order, here, previous, next } = neighboursInOrder(feature);
  const step = (to, text, rel) => {
    if (to === null) return el("span", { class: "off" }, text);
    return el("a", { href: `#feature-${to.id}`, rel, title: to.title ?? `feature ${to.id}` }, text);
  };
  return el(
    "nav",
    { class: "detail-nav", "aria-label": "Features" },
    el("a", { href: stateHash(), id: "back" }, "All features"),
    el("span", { class: "steps" }, step(previous, "‹ previous", "prev"), el("span", { class: "place" }, `${count(here + 1)} of ${count(order.length)}`), step(next, "next ›", "next")),
  );
}

function heading(feature, detail = null) {
  const by = detail?.explainer ? `${detail.explainer}${detail.model ? ` with ${detail.model}` : ""}` : null;
  const safety = detail?.safety.map((tag) => `safety: ${tag}`) ?? [];
  const chips = [`Feature ${feature.id}`, feature.kind, feature.flag, ...safety].filter((text) => text !== null);
  return el(
    "header",
    { class: "masthead" },
    el("p", { class: "eyebrow" }, ...chips.map((text) => el("span", {}, bdi(text)))),
    el("h1", { tabindex: -1, class: feature.title === null ? "none" : "" }, feature.title === null ? "no label" : bdi(feature.title)),
    feature.description ? el("p", { class: "lead" }, bdi(feature.description)) : null,
    detail?.output ? outputSide(detail.output) : null,
    by ? el("p", { class: "note" }, "labelled by ", bdi(by), detail.confidence ? ` · ${detail.confidence} confidence` : null) : null,
  );
}

/** What the feature makes the model say, where that was asked, and a mark where it is another thing than what it reads. */
function outputSide({ title, description, agrees }) {
  const mark = agrees === false ? el("strong", { class: "problem" }, " The two sides disagree.") : null;
  return el("p", { class: "side" }, el("small", {}, "Output "), el("strong", {}, bdi(title)), " ", bdi(description ?? ""), mark);
}

function overviewCards(feature, loaded) {
  return el("div", { class: "cards" }, scoreCard(feature, loaded.detail), firingCard(feature, loaded));
}

function scoreCard(feature, detail) {
  const drawn = el("div", {}, el("h2", {}, "Score"));
  if (feature.score === null) drawn.append(el("p", {}, problemOf(feature)));
  else drawn.append(bigNumber(fixed(feature.score), interval(feature.lo, feature.hi)), whisker(feature, 300, 34, true));
  if (feature.rank !== null) {
    const known = feature.rankLo !== null;
    drawn.append(
      el("h2", {}, "Rank"),
      bigNumber(count(feature.rank), known ? `anywhere from ${count(feature.rankLo)} to ${count(feature.rankHi)}` : ""),
      rankBar(feature, 300, 34),
    );
  }
  if (detail.note !== null) drawn.append(el("p", { class: "note" }, bdi(detail.note)));
  const facts = pairs([
    ["metric", detail.metric ?? "–"],
    ["interval", feature.lo === null ? "–" : "95 %, over contexts"],
    ["shuffled label", fixed(feature.shuffled), "the same score with the label of another feature"],
    ["lexical gain", fixed(feature.gain), "score minus that of the feature's own token list"],
    ["its interval", interval(feature.gainLo, feature.gainHi) || "–"],
    ["contexts scored", count(detail.contextsOk)],
    ["contexts failed", count(detail.contextsFailed)],
  ]);
  return el("section", { class: "card split" }, drawn, facts);
}

function firingCard(feature, { detail, dictionary }) {
  const drawn = el("div", {}, el("h2", {}, "Firing"), bigNumber(percent(feature.density), "of tokens"));
  if (detail.histogram.length) {
    drawn.append(histogram(detail.histogram, 300, 120), el("p", { class: "note" }, "Windows by peak; both scales are logarithmic. Each tint is a band."));
  }
  const facts = pairs([
    ["tokens", count(detail.firingTokens)],
    ["windows", count(detail.firingWindows)],
    ["documents", count(detail.firingDocuments)],
    ["largest", short(feature.max)],
    ["mean where it fires", short(detail.mean)],
    ["flag", feature.flag ?? "–"],
    ...descriptorPairs(detail.descriptors, dictionary),
  ]);
  return el("section", { class: "card split" }, drawn, facts);
}

/** What the harvest measured beyond counts; nothing where the catalog is older than that, or the feature never fires. */
function descriptorPairs(known, dictionary) {
  if (known === null) return [];
  const { top, share, entropy, position, peaks } = known;
  const topToken = top === null ? "–" : el("span", {}, tokenChip(dictionary.tokens[top]), ` ${percent(share)}`);
  const spread = entropy === null ? "" : `as spread as ${short(2 ** entropy)} equally frequent tokens`;
  return [
    ["top token", topToken, "the token on which it fires most, and its share of the tokens on which it fires"],
    ["token entropy", entropy === null ? "–" : `${fixed(entropy, 1)} bits`, `of the tokens on which it fires: ${spread}`],
    ["position dependence", fixed(position), "0: it fires anywhere in a window; towards 1: in one place only"],
    ...["p50", "p90", "p99"].map((name, n) => [`peak ${name}`, short(peaks[n]), "a quantile of the peaks of the windows in which it fires"]),
  ];
}

const bigNumber = (value, note) => el("p", { class: "big" }, el("strong", {}, value), " ", el("span", {}, note));
const interval = (lo, hi) => (lo === null || hi === null ? "" : `${fixed(lo)} to ${fixed(hi)}`);
const pairs = (rows) => el("dl", { class: "pairs" }, ...rows.filter(([, value]) => value !== "–").map(([name, value, title]) => el("div", { title }, el("dt", {}, name), el("dd", {}, value))));

function contexts(feature, loaded) {
  const root = el("section", { class: "contexts", "aria-label": "Contexts" });
  const all = loaded.detail.contexts;
  if (!all.length) {
    root.append(el("h2", {}, "Contexts"), el("p", { class: "note" }, feature.flag === "dead" ? "It never fires, so there are none." : "The catalog holds none."));
    return root;
  }
  const button = el("button", { type: "button", id: "whole", "aria-pressed": String(page.whole) }, "Whole windows");
  button.addEventListener("click", toggleWhole);
  const simulated = all.some((context) => context.simulated !== null || context.failed !== null);
  root.append(el("div", { class: "legend" }, legend(simulated), button));
  for (const [kind, title, note] of GROUPS) {
    const group = all.filter((context) => context.kind === kind);
    if (!group.length) continue;
    root.append(el("h2", {}, title, " ", el("small", {}, note)));
    let band = null;
    for (const context of group) {
      if (kind === "band" && context.band !== band) {
        band = context.band;
        root.append(el("h3", {}, `Band ${band}`, " ", el("small", {}, bandWords(loaded.detail.histogram, band))));
      }
      root.append(contextCard(feature, context, loaded, { whole: page.whole, simulated }));
    }
  }
  root.append(...negatives(feature, loaded));
  return root;
}

/** Hard negatives: silent windows with a cause to expect otherwise, whose place is marked. */
function negatives(feature, loaded) {
  const cards = loaded.detail.negatives.map((negative) => {
    const context = { ...negative, peak: 0, positions: [], percent: [], simulated: null, failed: null, evidence: false, duplicate: false };
    const words =
      negative.kind === "token"
        ? ["although ", tokenChip(loaded.dictionary.tokens[negative.cause]), " is there, the token on which it fires most"]
        : ["although its neighbour ", featureLink(negative.cause), " fires there"];
    return contextCard(feature, context, loaded, { whole: page.whole, simulated: false, cause: el("span", { class: "why" }, ...words) });
  });
  if (!cards.length) return [];
  const note = "hard negatives: it fires nowhere in these windows; the token that gives cause to expect it is marked";
  return [el("h2", {}, "Silent where it could be expected to fire", " ", el("small", {}, note)), ...cards];
}

function bandWords(bins, band) {
  const own = bins.filter(([, of]) => of === band);
  if (!own.length) return "";
  const low = 2 ** (Math.min(...own.map(([bin]) => bin)) / 4);
  const high = 2 ** ((Math.max(...own.map(([bin]) => bin)) + 1) / 4);
  return `peaks of ${short(low)} to ${short(high)}, ${count(own.reduce((sum, [, , n]) => sum + n, 0))} windows`;
}

function legend(simulated) {
  const swatches = (kind, name) => {
    const steps = [10, 40, 70, 100].map((value) => {
      const step = el("span", { class: `t ${kind}` }, "\u2002");
      step.style.setProperty(kind === "on" ? "--a" : "--s", value);
      return step;
    });
    return el("span", {}, ...steps, ` ${name}`);
  };
  return el("p", {}, swatches("on", "true activation"), simulated ? swatches("sim", "simulated from the label, in contexts that are scored") : null);
}

function toggleWhole() {
  page.whole = !page.whole;
  byId("whole")?.setAttribute("aria-pressed", String(page.whole));
  for (const card of document.querySelectorAll("#detail .context")) card.showWhole(page.whole);
}

function sidebar(feature, loaded) {
  const { detail, dictionary } = loaded;
  const side = el("aside", { "aria-label": "More of this feature" });
  const outputs = (title, rows, note = null) => {
    if (!rows.length) return;
    const items = rows.map(([token, logit]) => el("li", {}, tokenChip(dictionary.tokens[token]), el("span", { class: "number" }, fixed(logit))));
    side.append(el("section", { class: "card" }, el("h2", {}, title, note && el("small", {}, note)), el("ol", { class: "outputs" }, ...items)));
  };
  outputs("Promotes", detail.promoted);
  outputs("Suppresses", detail.suppressed);
  if (detail.steered !== null) {
    const { up, down, kl, strength } = detail.steered;
    outputs("Likelier when switched on", up, `at ${short(strength)} times its largest activation, KL ${short(kl)} nats`);
    outputs("Less likely when switched on", down);
  }
  if (detail.neighbours.length) side.append(el("section", { class: "card" }, el("h2", {}, "Nearest features", el("small", {}, "by decoder cosine")), nearest(detail.neighbours)));
  if (detail.cofiring.length) side.append(el("section", { class: "card" }, el("h2", {}, "Fires together with", el("small", {}, "Jaccard index, tokens in common")), together(detail.cofiring)));
  if (detail.labels.length) side.append(el("section", { class: "card" }, el("h2", {}, "Labels"), labels(detail.labels)));
  return side;
}

function nearest(neighbours) {
  const item = ([id, cosine]) => el("li", {}, featureLink(id), el("span", { class: "number", title: "cosine of the decoder directions" }, fixed(cosine)));
  return el("ol", { class: "outputs" }, ...neighbours.map(item));
}

function together(neighbours) {
  const item = ([id, both, jaccard]) => {
    const title = `both fire on ${count(both)} tokens of the random pool, ${percent(jaccard)} of those on which at least one does`;
    return el("li", {}, featureLink(id), el("span", { class: "number", title }, fixed(jaccard, 3), " ", el("small", {}, count(both))));
  };
  return el("ol", { class: "outputs" }, ...neighbours.map(item));
}

/** A feature by number and name, linked if this report has it. */
function featureLink(id) {
  const other = featureById.get(id);
  const text = [el("span", { class: "id" }, String(id)), " ", ...nameOf(other)];
  return other === undefined ? el("span", {}, ...text) : el("a", { href: `#feature-${id}` }, ...text);
}

/** What to call a feature in a list: its label, else the tokens that it fires on most. */
function nameOf(feature) {
  if (feature === undefined) return ["not in this report"];
  if (feature.title !== null) return [bdi(feature.title)];
  return feature.tokens.length ? feature.tokens.slice(0, 3).flatMap((token, n) => (n ? [" ", tokenChip(token)] : [tokenChip(token)])) : ["no label"];
}

function labels(rows) {
  const item = (row) => {
    const by = row.model === null ? row.explainer : `${row.explainer}, ${row.model}`;
    const text = row.problem === null ? bdi(row.title ?? "no title") : el("span", { class: "problem" }, bdi(row.problem));
    return el("li", {}, text, " ", el("small", {}, bdi(by), row.shown ? " · shown in the catalog" : ""));
  };
  return el("ul", { class: "labels" }, ...rows.map(item));
}
