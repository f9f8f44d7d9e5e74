// Small drawings: a score with its interval, the places a rank may have, and the histogram of a feature's peaks.

/** A score on the common scale: bar from lo to hi, dot at the score, hollow diamond for the shuffled control. */
function whisker(feature, width, height, labelled) {
  const pad = 6;
  const at = (value) => pad + ((value - scale.low) / (scale.high - scale.low)) * (width - 2 * pad);
  const middle = labelled ? height / 2 - 6 : height / 2;
  const chart = svg("svg", { class: "whisker", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": scoreWords(feature) });
  chart.append(svg("line", { class: "rail", x1: at(scale.low), x2: at(scale.high), y1: middle, y2: middle }));
  chart.append(svg("line", { class: "zero", x1: at(0), x2: at(0), y1: middle - 6, y2: middle + 6 }));
  if (feature.shuffled !== null) {
    const x = at(feature.shuffled);
    chart.append(svg("path", { class: "control", d: `M${x - 4} ${middle}L${x} ${middle - 4}L${x + 4} ${middle}L${x} ${middle + 4}Z` }));
  }
  if (feature.score !== null) {
    if (feature.lo !== null && feature.hi !== null) {
      chart.append(svg("line", { class: "interval", x1: at(feature.lo), x2: at(feature.hi), y1: middle, y2: middle }));
    }
    chart.append(svg("circle", { class: "score", cx: at(feature.score), cy: middle, r: 3.5 }));
  }
  if (labelled) {
    for (const value of new Set([scale.low, 0, 0.5, 1, scale.high])) {
      chart.append(svg("text", { x: at(value), y: height - 2, "text-anchor": "middle" }, fixed(value, 1)));
    }
  }
  return chart;
}

function scoreWords(feature) {
  if (feature.score === null) return feature.problem;
  const interval = feature.lo === null || feature.hi === null ? "" : `, interval ${fixed(feature.lo)} to ${fixed(feature.hi)}`;
  const control = feature.shuffled === null ? "" : `; shuffled label ${fixed(feature.shuffled)}`;
  return `score ${fixed(feature.score)}${interval}${control}`;
}

/** The places that the interval of the score leaves open, among all that are ranked. */
function rankBar(feature, width, height) {
  const pad = 6;
  const at = (rank) => pad + (nRanked > 1 ? (rank - 1) / (nRanked - 1) : 0.5) * (width - 2 * pad);
  const middle = height / 2 - 6;
  const label = `rank ${feature.rank}, between ${feature.rankLo} and ${feature.rankHi} of ${nRanked}`;
  return svg(
    "svg",
    { class: "whisker", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label },
    svg("line", { class: "rail", x1: at(1), x2: at(nRanked), y1: middle, y2: middle }),
    feature.rankLo === null ? null : svg("line", { class: "interval", x1: at(feature.rankLo), x2: at(feature.rankHi), y1: middle, y2: middle }),
    svg("circle", { class: "score", cx: at(feature.rank), cy: middle, r: 3.5 }),
    svg("text", { x: at(1), y: height - 2, "text-anchor": "start" }, "1"),
    svg("text", { x: at(nRanked), y: height - 2, "text-anchor": "end" }, count(nRanked)),
  );
}

/** Counts of windows by their peak. Bin b holds [2^(b/4), 2^((b+1)/4)); heights are logarithmic, bands share a tint. */
function histogram(bins, width, height) {
  const foot = 18;
  const first = Math.min(...bins.map(([bin]) => bin));
  const last = Math.max(...bins.map(([bin]) => bin));
  const nBands = Math.max(...bins.map(([, band]) => band));
  const totals = new Map();
  for (const [bin, , n] of bins) totals.set(bin, (totals.get(bin) ?? 0) + n);
  const most = Math.max(...totals.values());
  const step = width / (last - first + 1);
  const rise = (n) => (Math.log(1 + n) / Math.log(1 + most)) * (height - foot - 4);
  const words = `Windows by the feature's peak in them, from ${short(2 ** (first / 4))} to ${short(2 ** ((last + 1) / 4))}`;
  const chart = svg("svg", { class: "histogram", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words });
  // Where one bin is shared by bands (splits cut a little differently) they are stacked, the bar's height being the total's.
  const below = new Map();
  for (const [bin, band, n] of bins) {
    const full = rise(totals.get(bin));
    const part = (full * n) / totals.get(bin);
    const base = below.get(bin) ?? 0;
    below.set(bin, base + part);
    const title = `${short(2 ** (bin / 4))} to ${short(2 ** ((bin + 1) / 4))}: ${count(n)} windows, band ${band}`;
    chart.append(
      svg(
        "rect",
        {
          class: "band", "fill-opacity": (0.25 + (0.75 * band) / nBands).toFixed(2), width: Math.max(1, step - 1).toFixed(2),
          x: ((bin - first) * step).toFixed(2), y: (height - foot - base - part).toFixed(2), height: part.toFixed(2),
        },
        svg("title", {}, title),
      ),
    );
  }
  chart.append(svg("line", { class: "axis", x1: 0, x2: width, y1: height - foot, y2: height - foot }));
  const stride = Math.max(1, Math.ceil((last - first + 1) / 6 / 4)) * 4;
  for (let bin = Math.ceil(first / 4) * 4; bin <= last + 1; bin += stride) {
    const x = (bin - first) * step;
    const anchor = x < 12 ? "start" : x > width - 12 ? "end" : "middle";
    chart.append(svg("text", { x: x.toFixed(2), y: height - 4, "text-anchor": anchor }, short(2 ** (bin / 4))));
  }
  return chart;
}
