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

export function drawPoints(m, { svg, x, y, axes, theme, colours, box, taken }) {
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
  if (m.texts.length) {
    for (const i of all) {
      if (!m.texts[i]) continue;
      const right = x(xs[i]) < box.x + 0.8 * box.w, made = words(m.texts[i], x(xs[i]) + (right ? 1 : -1) * (m.size / 2 + 4), y(ys[i]) + 4, theme, { size: 11, anchor: right ? "start" : "end", room: 130 });
      const a = Number(made.getAttribute("x")), b = Number(made.getAttribute("y")), w = Math.min(130, textWidth(m.texts[i], 11)), left = right ? a : a - w;
      if (taken.some(([p, q, r]) => left < p + r && p < left + w && Math.abs(q - b) < 12)) continue; // names that would touch are told on hover
      taken.push([left, b, w]);
      made.setAttribute("paint-order", "stroke");
      made.setAttribute("stroke", theme.paper);
      made.setAttribute("stroke-width", 3);
      svg.append(made);
    }
  }
  return all.map((i) => ({
    x: x(xs[i]), y: y(ys[i]), r: m.size / 2 + 2, key: i, name: m.name,
    lines: [m.texts[i] || m.name, ...(m.notes[i] ? String(m.notes[i]).split("\n") : []),
      ...(axes.x.hidden ? [] : [spoken(axes.x, xs[i], "x")]), ...(axes.y.hidden ? [] : [spoken(axes.y, ys[i], "y")]),
      ...(values ? [`${colours.label || "value"} ${exact(values[i])}`] : [])],
  }));
}
