// Values over a rectangle with lines of equal value, and what is drawn across a plane: rules, spans, arrows, areas, words.
import { exact, imageNode, node, numbers, raster, rgb, styleOf, textWidth, words } from "./base.js";

const said = (axis, v, fallback) => `${axis.label || fallback} ${axis.names ? axis.names[Math.round(v)] ?? exact(v) : exact(v)}`;

const cell = (m) => {
  const [rows, columns] = m.values.shape;
  return { rows, columns, dx: columns > 1 ? (m.x[1] - m.x[0]) / (columns - 1) : 1, dy: rows > 1 ? (m.y[1] - m.y[0]) / (rows - 1) : 1 };
};

export function fieldReach(m) {
  return [[m.x], [m.y]];
}

export function drawField(m, { svg, x, y, axes, box }) {
  const values = numbers(m.values), { rows, columns, dx, dy } = cell(m);
  const left = x(m.x[0] - dx / 2), right = x(m.x[1] + dx / 2), down = y.to > y.from, one = y(m.y[1] + dy / 2), two = y(m.y[0] - dy / 2), top = Math.min(one, two), bottom = Math.max(one, two);
  const clip = `kd-clip-${Math.random().toString(36).slice(2)}`, inside = node("clipPath", { id: clip });
  inside.append(node("rect", { x: box.x, y: box.y, width: box.w, height: box.h }));
  const group = node("g", { "clip-path": `url(#${clip})` });
  svg.append(inside, group);
  const picture = raster(columns, rows, (i) => rgb(values[(down ? Math.floor(i / columns) : rows - 1 - Math.floor(i / columns)) * columns + (i % columns)], m.colours));
  group.append(imageNode(picture, left, top, right - left, bottom - top, !m.cells));
  const px = (c) => x(m.x[0] + c * dx), py = (r) => y(m.y[0] + r * dy);
  for (const level of m.levels) group.append(node("path", { d: isoline(values, rows, columns, level, px, py), fill: "none", stroke: "#ffffff", "stroke-width": 0.8, opacity: 0.8 }));
  const at = (k) => {
    const r = Math.floor(k / columns), c = k % columns;
    return { x: px(c) - Math.abs(x(dx) - x(0)) / 2, y: py(r) - Math.abs(y(dy) - y(0)) / 2, w: Math.abs(x(dx) - x(0)), h: Math.abs(y(dy) - y(0)), key: [r, c],
      lines: [said(axes.x, m.x[0] + c * dx, "x"), said(axes.y, m.y[0] + r * dy, "y"), `${m.colours.label || "value"} ${exact(values[k])}`] };
  };
  const pick = (a, b) => {
    const c = Math.round((x.invert(a) - m.x[0]) / dx), r = Math.round((y.invert(b) - m.y[0]) / dy);
    return c >= 0 && c < columns && r >= 0 && r < rows ? r * columns + c : -1;
  };
  return { rows, columns, at, pick, upward: !down };
}

/** Segments along which bilinear cells have a value (marching squares). */
function isoline(v, rows, columns, level, px, py) {
  let d = "";
  for (let r = 0; r + 1 < rows; r++) {
    for (let c = 0; c + 1 < columns; c++) {
      const k = r * columns + c, corners = [v[k], v[k + 1], v[k + columns + 1], v[k + columns]];
      const at = [[0, 0], [1, 0], [1, 1], [0, 1]], cuts = [];
      for (let e = 0; e < 4; e++) {
        const a = corners[e], b = corners[(e + 1) % 4];
        if ((a < level) !== (b < level) && Number.isFinite(a + b)) {
          const w = (level - a) / (b - a), [p, q] = [at[e], at[(e + 1) % 4]];
          cuts.push([px(c + p[0] + w * (q[0] - p[0])), py(r + p[1] + w * (q[1] - p[1]))]);
        }
      }
      for (let i = 0; i + 1 < cuts.length; i += 2) d += `M${cuts[i].map((n) => n.toFixed(1))}L${cuts[i + 1].map((n) => n.toFixed(1))}`;
    }
  }
  return d;
}

export function drawRule(m, { svg, x, y, axes, theme, box }) {
  const style = styleOf(m.style, theme), stroke = { stroke: style.colour, "stroke-width": 1.4, "stroke-dasharray": style.dash };
  if (m.axis === "both") {
    const low = Math.max(x.low, y.low), high = Math.min(x.high, y.high);
    if (low < high) svg.append(node("line", { x1: x(low), y1: y(low), x2: x(high), y2: y(high), ...stroke }));
    return [];
  }
  const s = m.axis === "y" ? y : x, p = s(m.value);
  if (m.value < s.low || m.value > s.high) return [];
  svg.append(node("line", m.axis === "y" ? { x1: box.x, x2: box.x + box.w, y1: p, y2: p, ...stroke } : { x1: p, x2: p, y1: box.y, y2: box.y + box.h, ...stroke }));
  return m.name ? [{ ...(m.axis === "y" ? { x: box.x + box.w - 8, y: p } : { x: p, y: box.y + 8 }), r: 4, key: 0, name: m.name, lines: [m.name, `${axes[m.axis].label} ${exact(m.value)}`.trim()] }] : [];
}

export function drawSpan(m, { svg, x, y, theme, box }) {
  const s = m.axis === "x" ? x : y, one = Math.max(s(m.low), Math.min(s.from, s.to)), two = Math.min(s(m.high), Math.max(s.from, s.to));
  const a = Math.min(one, two), size = Math.abs(two - one), style = styleOf(m.style, theme);
  const r = m.axis === "x" ? { x: a, y: box.y, width: size, height: box.h } : { x: box.x, y: a, width: box.w, height: size };
  svg.append(node("rect", { ...r, fill: style.colour, opacity: 0.18 }));
  const upright = r.width < 70 && r.height > r.width;
  if (m.name && Math.max(r.width, r.height) > 50) { // over the marks, at the upper end: they would hide it
    const made = words(m.name, r.x + r.width / 2 + (upright ? 4 : 0), upright ? r.y + r.height / 2 : r.y + Math.min(16, r.height / 2 + 4), theme, { size: 11.5, anchor: "middle", turn: upright ? -90 : 0, room: (upright ? r.height : r.width) - 6 });
    for (const [name, v] of [["paint-order", "stroke"], ["stroke", theme.paper], ["stroke-width", 3], ["class", "kd-span"]]) made.setAttribute(name, v);
    svg.append(made);
  }
  return [];
}

export function drawArrows(m, { svg, x, y, axes, theme }) {
  const [xs, ys, dx, dy] = [m.x, m.y, m.dx, m.dy].map(numbers), style = styleOf(m.style, theme), items = [];
  let d = "";
  xs.forEach((v, i) => {
    const a = x(v), b = y(ys[i]), p = x(v + dx[i]), q = y(ys[i] + dy[i]), length = Math.hypot(p - a, q - b);
    if (!Number.isFinite(length)) return;
    d += `M${a.toFixed(1)},${b.toFixed(1)}L${p.toFixed(1)},${q.toFixed(1)}`;
    if (m.head && length > 3) {
      const ux = (p - a) / length, uy = (q - b) / length, s = Math.min(9, 0.6 * length);
      d += `M${(p - s * (ux + 0.5 * uy)).toFixed(1)},${(q - s * (uy - 0.5 * ux)).toFixed(1)}L${p.toFixed(1)},${q.toFixed(1)}L${(p - s * (ux - 0.5 * uy)).toFixed(1)},${(q - s * (uy + 0.5 * ux)).toFixed(1)}`;
    }
    items.push({ x: (a + p) / 2, y: (b + q) / 2, r: 5, key: i, name: m.name, lines: [m.name, ...(m.notes[i] ? String(m.notes[i]).split("\n") : axes.x.hidden ? [] : [`by ${exact(dx[i])} and ${exact(dy[i])}`])] });
  });
  svg.append(node("path", { d, fill: "none", stroke: style.colour, "stroke-width": 2, "stroke-linejoin": "round" }));
  return items;
}

export function drawArea(m, { svg, x, y, theme }) {
  const xs = numbers(m.x), ys = numbers(m.y), style = styleOf(m.style, theme);
  svg.append(node("polygon", { points: Array.from(xs, (v, i) => `${x(v).toFixed(1)},${y(ys[i]).toFixed(1)}`).join(" "), fill: style.colour, "fill-opacity": m.opacity, stroke: style.colour, "stroke-opacity": 0.5 }));
  return [];
}

/** Words at points: moved inwards where they would leave the plane, down where they would lie on others. */
export function drawTexts(m, { svg, x, y, theme, box, taken }) {
  const xs = numbers(m.x), ys = numbers(m.y), colour = m.style === "ink" ? null : styleOf(m.style, theme).colour, size = 11.5;
  m.texts.forEach((text, i) => {
    const a = x(xs[i]);
    let b = y(ys[i]);
    if (!Number.isFinite(a) || !Number.isFinite(b)) return;
    const w = Math.min(box.w, textWidth(text, size)), before = w * { start: 0, middle: 0.5, end: 1 }[m.anchor];
    const left = Math.max(box.x + 3, Math.min(box.x + box.w + 10 - w, a - before));
    while (taken.some(([p, q, r]) => left < p + r && p < left + w && Math.abs(q - b) < 14)) b += 1;
    taken.push([left, b, w]);
    const made = words(text, left + before, b + 4, theme, { size, anchor: m.anchor, colour, room: box.w });
    made.setAttribute("paint-order", "stroke");
    made.setAttribute("stroke", theme.paper);
    made.setAttribute("stroke-width", 3);
    svg.append(made);
  });
  return [];
}
