// Lines with bands, and points with lines between pairs.
import { css, exact, marker, node, numbers, percent, rgb, styleOf, textWidth, words } from "./base.js";

const told = (axis, v) => (axis.names ? axis.names[Math.round(v)] ?? exact(v) : axis.percent ? percent(v) : exact(v));
const spoken = (axis, v, fallback) => `${axis.label || fallback} ${told(axis, v)}`;

export const lineReach = (m) => [[numbers(m.x)], [numbers(m.y), numbers(m.low), numbers(m.high)]];

export function drawLine(m, { svg, x, y, axes, theme }) {
  const xs = numbers(m.x), ys = numbers(m.y), low = numbers(m.low), high = numbers(m.high), style = styleOf(m.style, theme);
  const path = (values, points) => {
    let d = "", open = false;
    for (const i of points) {
      const a = x(xs[i]), b = y(values[i]);
      if (Number.isFinite(a) && Number.isFinite(b)) { d += `${open ? "L" : "M"}${a.toFixed(1)},${b.toFixed(1)}`; open = true; } else open = false;
    }
    return d;
  };
  const all = [...xs.keys()];
  if (low && high) {
    const known = all.filter((i) => Number.isFinite(low[i]) && Number.isFinite(high[i]) && Number.isFinite(x(xs[i])));
    if (known.length > 1) svg.append(node("path", { d: `${path(high, known)}${path(low, [...known].reverse()).replace("M", "L")}Z`, fill: style.colour, opacity: 0.2 }));
  }
  if (style.rim) svg.append(node("path", { d: path(ys, all), fill: "none", stroke: style.rim, "stroke-width": 4.4 }));
  svg.append(node("path", { d: path(ys, all), fill: "none", stroke: style.colour, "stroke-width": m.fine ? 1.1 : 2.2, "stroke-dasharray": m.fine ? "" : style.dash, "stroke-linejoin": "round" }));
  if (m.dots ?? (!m.fine && xs.length <= 30)) {
    const every = Math.max(1, Math.ceil(xs.length / 60));
    svg.append(node("path", { d: all.filter((i) => i % every === 0 && Number.isFinite(x(xs[i])) && Number.isFinite(y(ys[i]))).map((i) => marker(style.marker, x(xs[i]), y(ys[i]), 6.5)).join(""), fill: style.colour, stroke: style.rim }));
  }
  if (m.fine) return [];
  return all.filter((i) => Number.isFinite(x(xs[i])) && Number.isFinite(y(ys[i]))).map((i) => ({
    x: x(xs[i]), y: y(ys[i]), r: 5, key: i, name: m.name,
    lines: [m.name, spoken(axes.x, xs[i], "x"), spoken(axes.y, ys[i], "y"), ...(low && high && Number.isFinite(low[i]) ? [`from ${exact(low[i])} to ${exact(high[i])}`] : [])],
  }));
}

export function pointsReach(m) {
  const to = numbers(m.to), even = to?.filter((_, i) => i % 2 === 0), odd = to?.filter((_, i) => i % 2 === 1);
  return [[numbers(m.x), even], [numbers(m.y), odd]];
}

export function drawPoints(m, { svg, x, y, axes, theme, colours, dots }) {
  const xs = numbers(m.x), ys = numbers(m.y), values = numbers(m.values), to = numbers(m.to), style = styleOf(m.style, theme);
  const all = [...xs.keys()].filter((i) => Number.isFinite(x(xs[i])) && Number.isFinite(y(ys[i])));
  if (to) {
    const d = all.filter((i) => Number.isFinite(to[2 * i] + to[2 * i + 1])).map((i) => `M${x(xs[i]).toFixed(1)},${y(ys[i]).toFixed(1)}L${x(to[2 * i]).toFixed(1)},${y(to[2 * i + 1]).toFixed(1)}`).join("");
    svg.append(node("path", { d, stroke: style.colour, "stroke-width": all.length > 300 ? 0.6 : 1.2, opacity: 0.6, fill: "none" }));
  }
  const groups = new Map(); // one path per colour, so that thousands of dots are a few elements
  for (const i of all) {
    const c = values ? rgb(values[i], colours) : null, key = values ? (c ? css(c) : "none") : style.colour;
    groups.set(key, `${groups.get(key) ?? ""}${marker(style.marker, x(xs[i]), y(ys[i]), m.size)}`);
  }
  const many = all.length > 400;
  for (const [colour, d] of groups) {
    const ring = m.ring || colour === "none";
    svg.append(node("path", { d, fill: ring ? "none" : colour, stroke: ring ? (colour === "none" ? theme.muted : colour) : style.rim ?? theme.paper, "stroke-width": ring ? 2 : many ? 0.4 : 0.8, opacity: many && !ring ? 0.75 : null }));
  }
  dots.push(...all.map((i) => ({ x: x(xs[i]), y: y(ys[i]), r: m.size / 2, ring: m.ring && !m.texts.length, text: m.texts[i] ?? "" })));
  return all.map((i) => ({
    x: x(xs[i]), y: y(ys[i]), r: m.size / 2 + 2, key: i, name: m.name,
    lines: [m.texts[i] || m.name, ...(m.notes[i] ? String(m.notes[i]).split("\n") : []),
      ...(axes.x.hidden ? [] : [spoken(axes.x, xs[i], "x")]), ...(axes.y.hidden ? [] : [spoken(axes.y, ys[i], "y")]),
      ...(values ? [`${colours.label || "value"} ${exact(values[i])}`] : [])],
  }));
}

/** Names beside dots, of all marks of a plane: right, left, above or below, where they touch neither a name nor a dot; those with a ring around them come first; what has no room is told on hover. */
export function nameDots(dots, box, theme, svg, taken) {
  const named = dots.filter((d) => d.text), solid = dots.filter((d) => !d.ring);
  const ringed = (d) => dots.some((o) => o.ring && Math.abs(o.x - d.x) + Math.abs(o.y - d.y) < 0.5);
  const first = new Set(named.length < 400 ? named.filter(ringed) : []), watched = solid.length * named.length < 2e5 ? solid : [];
  for (const d of [...first, ...named.filter((n) => !first.has(n))]) {
    const w = Math.min(130, textWidth(d.text, 11)), gap = (first.has(d) ? Math.max(d.r, 11) : d.r) + 4;
    const places = [[d.x + gap, d.y + 4, "start"], [d.x - gap - w, d.y + 4, "end"], [d.x - w / 2, d.y - gap - 1, "middle"], [d.x - w / 2, d.y + gap + 9, "middle"]];
    const free = ([left, y], dotsToo) => left >= box.x - 4 && left + w <= box.x + box.w + 8 && !taken.some(([p, q, r]) => left < p + r && p < left + w && Math.abs(q - y) < 12)
      && !(dotsToo && watched.some((o) => o !== d && o.x + o.r > left && o.x - o.r < left + w && o.y + o.r > y - 9 && o.y - o.r < y + 2));
    const place = places.find((p) => free(p, true)) ?? (first.has(d) ? places.find((p) => free(p, false)) : null);
    if (!place) continue;
    const [left, y, anchor] = place, made = words(d.text, anchor === "start" ? left : anchor === "end" ? left + w : left + w / 2, y, theme, { size: 11, anchor, room: 130 });
    taken.push([left, y, w]);
    for (const [name, v] of [["paint-order", "stroke"], ["stroke", theme.paper], ["stroke-width", 3]]) made.setAttribute(name, v);
    svg.append(made);
  }
}
