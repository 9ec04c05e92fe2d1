// Bars of one or several series with intervals, and histograms.
import { exact, hatch, node, numbers, percent, styleOf } from "./base.js";

const WIDE = 0.8; // of a position, shared by the series there

export function barsReach(m) {
  const reach = [numbers(m.values), numbers(m.low), numbers(m.high), [m.base]];
  if (m.stacked && m.under) reach.push(m.under.map((u, i) => u + numbers(m.values)[i]));
  const at = numbers(m.at), half = (m.width ?? WIDE) / 2, sides = [at.map((v) => v - half), at.map((v) => v + half)];
  return m.lying ? [reach, sides] : [sides, reach];
}

/** Where each series of bars stands: side by side, or on top of those before it. */
export function placeBars(marks) {
  const bars = marks.filter((m) => m.kind === "bars"), beside = bars.filter((m) => !m.stacked && m.width === null);
  beside.forEach((m, k) => { [m.share, m.slot] = [WIDE / beside.length, k - (beside.length - 1) / 2]; });
  const heights = new Map();
  for (const m of bars.filter((b) => b.stacked)) {
    const at = numbers(m.at), values = numbers(m.values);
    m.under = Array.from(at, (a) => heights.get(a) ?? m.base);
    at.forEach((a, i) => heights.set(a, m.under[i] + (Number.isFinite(values[i]) ? values[i] : 0)));
    [m.share, m.slot] = [m.width ?? WIDE, 0];
  }
  for (const m of bars.filter((b) => b.width !== null && !b.stacked)) [m.share, m.slot] = [m.width, 0];
}

export function drawBars(m, { svg, x, y, axes, theme }) {
  const at = numbers(m.at), values = numbers(m.values), low = numbers(m.low), high = numbers(m.high);
  const along = m.lying ? y : x, up = m.lying ? x : y, axis = m.lying ? axes.x : axes.y, names = m.lying ? axes.y : axes.x;
  const clamp = (v) => Math.min(Math.max(v, Math.min(up.from, up.to)), Math.max(up.from, up.to));
  const fills = new Map(), items = [], slim = Math.abs(along(1) - along(0)) * m.share < 6;
  const say = axis.percent ? percent : exact;
  at.forEach((a, i) => {
    const style = styleOf(m.styles.length ? m.styles[i] : m.style, theme), from = m.under ? m.under[i] : m.base;
    const one = along(a + (m.slot - 0.5) * m.share), two = along(a + (m.slot + 0.5) * m.share), start = Math.min(one, two), breadth = Math.max(1, Math.abs(two - one) - (slim ? 0 : 1));
    const known = Number.isFinite(values[i]), value = known ? values[i] + (m.under ? from : 0) : from;
    const p = clamp(up.log && from <= 0 ? up.low : up(from)), q = clamp(up(value)), first = Math.min(p, q), size = Math.abs(q - p);
    const box = m.lying ? { x: first, y: start, width: size, height: breadth } : { x: start, y: first, width: breadth, height: size };
    const strong = Boolean(m.strong[i]);
    if (known) {
      svg.append(node("rect", { ...box, fill: style.colour, stroke: slim && !strong ? null : theme.ink, "stroke-width": strong ? 2.2 : 0.5 }));
      if (style.hatch && !slim) {
        if (!fills.has(style.hatch)) fills.set(style.hatch, hatch(svg, style.hatch, theme.ink));
        svg.append(node("rect", { ...box, fill: fills.get(style.hatch), "pointer-events": "none" }));
      }
    } else {
      const middle = start + breadth / 2;
      svg.append(node("line", m.lying ? { x1: p, x2: p + 8, y1: middle, y2: middle, stroke: theme.muted, "stroke-width": 2 } : { x1: middle - 4, x2: middle + 4, y1: p - 3, y2: p - 3, stroke: theme.muted, "stroke-width": 2 }));
    }
    if (low && high && Number.isFinite(low[i]) && Number.isFinite(high[i])) {
      const c = start + breadth / 2, l = clamp(up(low[i])), h = clamp(up(high[i])), cap = Math.min(5, breadth / 3);
      const d = m.lying ? `M${l},${c}L${h},${c}M${l},${c - cap}L${l},${c + cap}M${h},${c - cap}L${h},${c + cap}` : `M${c},${l}L${c},${h}M${c - cap},${l}L${c + cap},${l}M${c - cap},${h}L${c + cap},${h}`;
      svg.append(node("path", { d, stroke: theme.paper, "stroke-width": 4, fill: "none" }), node("path", { d, stroke: theme.ink, "stroke-width": 1.5, fill: "none" }));
    }
    const where = names.names ? names.names[Math.round(a)] ?? exact(a) : `${names.label || "at"} ${exact(a)}`;
    items.push({
      ...{ x: box.x, y: box.y, w: box.width, h: box.height }, key: i, name: m.name, order: a + m.slot * m.share,
      column: m.lying ? undefined : [start, start + breadth], row: m.lying ? [start, start + breadth] : undefined,
      lines: [where, `${m.name ? `${m.name}: ` : ""}${known ? say(values[i]) : "not known"}`, ...(low && Number.isFinite(low[i]) ? [`from ${say(low[i])} to ${say(high[i])}`] : []), ...(m.notes[i] ? String(m.notes[i]).split("\n") : [])],
    });
  });
  if (up.low < m.base && up.high > m.base && !m.under) {
    const z = up(m.base);
    svg.append(node("line", m.lying ? { x1: z, x2: z, y1: y.to, y2: y.from, stroke: theme.ink } : { y1: z, y2: z, x1: x.from, x2: x.to, stroke: theme.ink }));
  }
  return items;
}

export const histogramReach = (m) => [[numbers(m.edges)], [numbers(m.heights), [0]]];

export function drawHistogram(m, { svg, x, y, axes, theme }) {
  const edges = numbers(m.edges), heights = numbers(m.heights), style = styleOf(m.style, theme), zero = y(Math.max(0, y.low)), items = [];
  let d = `M${x(edges[0])},${zero}`;
  heights.forEach((h, i) => {
    d += `L${x(edges[i]).toFixed(1)},${y(h).toFixed(1)}L${x(edges[i + 1]).toFixed(1)},${y(h).toFixed(1)}`;
    items.push({ x: x(edges[i]), y: y(h), w: x(edges[i + 1]) - x(edges[i]), h: zero - y(h), key: i, name: m.name, order: edges[i], column: [x(edges[i]), x(edges[i + 1])],
      lines: [`${axes.x.label || "from"} ${exact(edges[i])} to ${exact(edges[i + 1])}`, `${m.name ? `${m.name}: ` : ""}${exact(h)}${axes.y.label ? ` ${axes.y.label}` : ""}`] });
  });
  d += `L${x(edges.at(-1))},${zero}Z`;
  svg.append(node("path", { d, fill: style.colour, "fill-opacity": 0.3, stroke: style.colour, "stroke-width": 1.8, "stroke-dasharray": style.dash }));
  if (m.mean !== null && m.mean !== undefined) {
    const a = x(m.mean);
    svg.append(node("path", { d: `M${a - 6},${y.to - 1}L${a + 6},${y.to - 1}L${a},${y.to + 8}Z`, fill: style.colour, stroke: theme.ink, "stroke-width": 0.6 }));
  }
  return items;
}
