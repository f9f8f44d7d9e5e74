// Contexts: tokens shaded by the true activation, underlined by the simulated one, and what a token says on hover or focus.

// What is shown around the peak unless the whole window is asked for: so many tokens, over so many line ends.
const BEFORE = { tokens: 28, lines: 4 };
const AFTER = { tokens: 14, lines: 3 };
const MARKS = { "\n": "↵", "\t": "→", "\r": "␍" };

/** Put a token's display into `node`: line ends and tabs get a mark and keep their effect, ⟨codes⟩ are set apart. */
function appendToken(node, display, breaks) {
  for (const part of display.split(/([\n\t\r]|⟨[^⟩]*⟩)/)) {
    if (part === "") continue;
    if (part in MARKS) {
      node.append(el("span", { class: "mark" }, MARKS[part]));
      if (breaks && part !== "\r") node.append(part);
    } else if (part.startsWith("⟨")) {
      node.append(el("span", { class: "mark" }, part));
    } else {
      node.append(part);
    }
  }
  return node;
}

/** A single token outside of running text: nothing breaks, leading and trailing spaces stay visible. */
const tokenChip = (display, attributes = {}) => appendToken(el("code", { class: "chip", ...attributes }), display, false);

/**
 * One context as a card. `whole` is the page's choice, which the card's button overrides; `simulated`: some contexts are;
 * `cause`: why a hard negative is there, as nodes.
 */
function contextCard(feature, context, loaded, { whole, simulated, cause = null }) {
  const window = loaded.windowOf(context.window);
  const card = el("article", { class: "context" });
  const values = new Map(context.positions.map((position, n) => [position, context.percent[n]]));
  const centre = peakPosition(context);
  const reach = (step, limit) => walk(window, loaded.dictionary, centre, step, limit);
  const cut = { from: reach(-1, BEFORE), to: reach(1, AFTER) + 1 };
  const shortened = cut.to - cut.from < window.tokens.length;
  const toggle = shortened ? el("button", { type: "button", class: "quiet", "aria-pressed": String(whole) }, "whole window") : null;
  const body = el("div", { class: "tokens", role: "group" });
  body.setAttribute("aria-label", `${silent(context) ? "silent context" : `${context.kind} context, peak ${short(context.peak)}`}, from ${window.document}. Arrow keys walk its tokens.`);

  const draw = (all) => {
    const { from, to } = all ? { from: 0, to: window.tokens.length } : cut;
    body.replaceChildren();
    if (from > 0) body.append(el("span", { class: "cut" }, "… "));
    for (let position = from; position < to; position += 1) {
      body.append(tokenSpan(feature, context, loaded, window, values, position, position === centre));
    }
    if (to < window.tokens.length) body.append(el("span", { class: "cut" }, " …"));
    toggle?.setAttribute("aria-pressed", String(all));
  };
  toggle?.addEventListener("click", () => draw(toggle.getAttribute("aria-pressed") !== "true"));
  card.showWhole = draw;
  draw(whole);
  card.append(contextHead(context, window, simulated, cause, toggle), body);
  return card;
}

/** The last position of a walk from `start`, by `step`, that passes no more than the limit's tokens and line ends. */
function walk(window, dictionary, start, step, limit) {
  let lines = 0;
  let position = start;
  for (let taken = 0; taken < limit.tokens; taken += 1) {
    const next = position + step;
    if (next < 0 || next >= window.tokens.length) break;
    lines += dictionary.tokens[window.tokens[step < 0 ? next : position]].split("\n").length - 1;
    if (lines > limit.lines) break;
    position = next;
  }
  return position;
}

function peakPosition(context) {
  if (context.at !== undefined) return context.at;
  const values = context.positions.length ? context.percent : context.simulated ?? [];
  const best = values.indexOf(Math.max(...values));
  if (best < 0) return 0;
  return context.positions.length ? context.positions[best] : best;
}

const silent = (context) => context.positions.length === 0;

function contextHead(context, window, simulated, cause, toggle) {
  const badges = [];
  if (context.split === "test") badges.push(badge("test", "held out: the explainer never saw its document; scores are computed on it", "held"));
  else badges.push(badge(context.split, `from the ${context.split} split`));
  if (context.evidence) badges.push(badge("evidence", "the label names this context as its evidence"));
  if (context.duplicate) badges.push(badge("near-duplicate", "shares the tokens around its peak with an explain context: not scored"));
  if (context.failed !== null) badges.push(badge(`simulation failed: ${context.failed}`, "counted as a failure, not as zeros", "bad"));
  else if (simulated && drawnToBeScored(context) && context.simulated === null) badges.push(badge("not simulated", "more contexts of this band were kept than are scored", "plainly"));
  return el(
    "header",
    {},
    el("span", { class: "peak", title: "largest activation in this context" }, silent(context) ? "silent" : short(context.peak)),
    cause,
    ...badges,
    el("span", { class: "source" }, bdi(window.document), ` · ${count(window.start)}`),
    toggle,
  );
}

const badge = (text, title, kind = "") => el("span", { class: `badge ${kind}`, title }, bdi(text));

function tokenSpan(feature, context, loaded, window, values, position, isPeak) {
  const token = window.tokens[position];
  const truth = values.get(position) ?? 0;
  const simulated = context.simulated === null ? null : context.simulated[position] ?? null;
  const span = el("span", { class: `t${truth ? " on" : ""}${simulated ? " sim" : ""}${isPeak ? " peak" : ""}${isPeak && context.at !== undefined ? " cause" : ""}`, tabindex: isPeak ? 0 : -1 });
  if (truth) span.style.setProperty("--a", truth);
  if (simulated) span.style.setProperty("--s", simulated);
  appendToken(span, loaded.dictionary.tokens[token], true);
  span.describe = () => {
    const exact = isPeak && truth > 0;
    const value = exact ? short(context.peak) : `≈ ${short((truth / 100) * feature.max)}`;
    return [
      ["token", tokenChip(loaded.dictionary.tokens[token])],
      ["id", String(loaded.dictionary.ids[token])],
      ["true", truth ? `${value} (${truth} % of the maximum)` : "0"],
      ["simulated", simulatedWords(context, simulated)],
    ];
  };
  return span;
}

/** Of the others it goes without saying that nobody simulated them: the strongest contexts and other splits are never scored. */
const drawnToBeScored = (context) => context.kind === "band" && context.split === "test" && !context.duplicate;

function simulatedWords(context, simulated) {
  if (context.failed !== null) return "failed";
  if (context.simulated === null) return "not simulated";
  return simulated === null ? "no number" : `${fixed(simulated / 10, 1)} of 10`;
}

/** The tooltip: one for the page, filled by the token under the pointer or in focus. */
function showTip(span) {
  const tip = byId("tip");
  const list = el("dl");
  for (const [name, value] of span.describe()) list.append(el("dt", { class: name }, name), el("dd", {}, value));
  tip.replaceChildren(list);
  tip.hidden = false;
  const at = span.getClientRects()[0];
  const left = Math.min(at.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
  const above = at.top - tip.offsetHeight - 6;
  tip.style.setProperty("left", `${Math.max(8, left)}px`);
  tip.style.setProperty("top", `${above > 4 ? above : at.bottom + 8}px`);
}

function hideTip() {
  byId("tip").hidden = true;
}

/** On scrolling the tip goes, or stays with the token in focus (which the browser may just have scrolled into view). */
function followTip() {
  if (document.activeElement.matches(".t")) showTip(document.activeElement);
  else hideTip();
}

/** Hover and focus show the tip; left, right, Home and End walk the tokens of the context that has the focus. */
function watchTokens(root) {
  root.addEventListener("pointerover", (event) => {
    const span = event.target.closest(".t");
    if (span) showTip(span);
    else hideTip();
  });
  root.addEventListener("pointerleave", hideTip);
  root.addEventListener("focusin", (event) => {
    if (!event.target.matches(".t")) return;
    event.target.setAttribute("aria-describedby", "tip");
    showTip(event.target);
  });
  root.addEventListener("focusout", (event) => {
    event.target.removeAttribute("aria-describedby");
    hideTip();
  });
  root.addEventListener("keydown", (event) => {
    if (!event.target.matches(".t") || event.ctrlKey || event.metaKey || event.altKey) return;
    const all = [...event.target.parentElement.querySelectorAll(".t")];
    const here = all.indexOf(event.target);
    const next = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: all.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    if (!all[next]) return;
    event.target.tabIndex = -1;
    all[next].tabIndex = 0;
    all[next].focus();
  });
}
