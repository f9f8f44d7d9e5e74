// Which of the two views is open, and the keys. The address says it all: #feature-12 is a feature, #?… a state of the table.

const title = document.title;
let scrolled = 0;

function route() {
  hideTip();
  const asked = /^#feature-(\d+)$/.exec(location.hash);
  const feature = asked ? featureById.get(Number(asked[1])) : undefined;
  if (feature) openFeature(feature);
  else openOverview();
}

function openFeature(feature) {
  if (!byId("overview").hidden) scrolled = scrollY;
  byId("overview").hidden = true;
  byId("detail").hidden = false;
  document.title = `${feature.id}: ${feature.title ?? "no label"} · ${title}`;
  scrollTo(0, 0);
  showFeature(feature);
}

function openOverview() {
  const last = page.asked;
  page.asked = null;
  byId("detail").hidden = true;
  byId("detail").replaceChildren();
  byId("overview").hidden = false;
  document.title = title;
  if (location.hash.startsWith("#?")) readState(location.hash);
  refresh();
  if (last === null) return;
  scrollTo(0, scrolled);
  rowLinks().find((link) => link.hash === `#feature-${last.id}`)?.focus({ preventScroll: true });
}

const rowLinks = () => [...byId("table").tBodies[0].querySelectorAll("td.c-title a")];

/** Move the focus by rows; from outside the table to its first row. */
function walkRows(by) {
  const links = rowLinks();
  const here = links.indexOf(document.activeElement);
  links[here < 0 ? 0 : Math.min(links.length - 1, Math.max(0, here + by))]?.focus();
}

function overviewKey(key) {
  if (key === "/") byId("filter-text").focus();
  else if (key === "j") walkRows(1);
  else if (key === "k") walkRows(-1);
  else return false;
  return true;
}

function featureKey(key) {
  const { previous, next } = neighboursInOrder(page.asked);
  const to = { j: next, ArrowRight: next, k: previous, ArrowLeft: previous }[key];
  if (to) location.hash = `feature-${to.id}`;
  else if (key === "Escape") location.hash = stateHash();
  else if (key === "w") toggleWhole();
  else return false;
  return true;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (event.target.matches("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (page.asked === null ? overviewKey(event.key) : featureKey(event.key)) event.preventDefault();
});
addEventListener("hashchange", route);
addEventListener("scroll", followTip, { passive: true });
prepareTable();
watchTokens(byId("detail"));
route();
