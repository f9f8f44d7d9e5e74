// The embedded data: the index of all features, and the blocks that are inflated when a page needs them.

const { windowBlock: WINDOW_BLOCK, columns } = JSON.parse(byId("index").textContent);
const names = Object.keys(columns);

/** One object a feature, in the catalog's order: `place` is its position there. */
const features = columns.id.map((_, place) => {
  const feature = { place };
  for (const name of names) feature[name] = columns[name][place];
  return feature;
});
const featureById = new Map(features.map((feature) => [feature.id, feature]));

/** The common scale of all charts of scores. */
const scale = (() => {
  let low = 0;
  let high = 1;
  for (const feature of features) {
    for (const value of [feature.lo, feature.score, feature.shuffled]) if (value !== null) low = Math.min(low, value);
    for (const value of [feature.hi, feature.score, feature.shuffled]) if (value !== null) high = Math.max(high, value);
  }
  return { low: Math.floor(low * 5) / 5, high: Math.ceil(high * 5) / 5 };
})();
const nRanked = features.reduce((most, feature) => Math.max(most, feature.rank ?? 0, feature.rankHi ?? 0), 0);

const parsed = new Promise((resolve) => {
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", resolve, { once: true });
  else resolve();
});
const inflated = new Map();

/** The JSON of a block. Blocks stand at the end of the file, so the first page may have to wait for them. */
function block(name) {
  if (!inflated.has(name)) inflated.set(name, inflate(name));
  return inflated.get(name);
}

async function inflate(name) {
  await parsed;
  const bytes = Uint8Array.from(atob(byId(name).textContent), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

/** Everything that the page of one feature shows: its details, the windows they refer to, and the dictionary. */
async function loadFeature(feature) {
  const [details, dictionary] = await Promise.all([block(`detail-${feature.detail}`), block("dictionary")]);
  const detail = details.find((one) => one.id === feature.id);
  const numbers = new Set([...detail.contexts, ...detail.negatives].map((context) => Math.floor(context.window / WINDOW_BLOCK)));
  const held = new Map();
  await Promise.all([...numbers].map(async (number) => held.set(number, await block(`windows-${number}`))));
  const windowOf = (number) => {
    const from = held.get(Math.floor(number / WINDOW_BLOCK));
    const place = number % WINDOW_BLOCK;
    return { tokens: from.tokens[place], start: from.starts[place], document: dictionary.documents[from.documents[place]] };
  };
  return { detail, dictionary, windowOf };
}
