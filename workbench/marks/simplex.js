// Probabilities of three classes as points of a triangle.
import { exact, listed, marker, node, numbers, styleOf, words } from "./base.js";

export function drawSimplex(panel, width, theme, tallest) {
  const side = Math.min(360, width - 140, 40 + Math.max(220, tallest)), title = panel.title ? 22 : 6, x0 = (width - side) / 2, top = title + 22, base = top + side * Math.sqrt(0.75), height = base + 30;
  const corners = [[x0, base], [x0 + side, base], [x0 + side / 2, top]], at = (p) => [0, 1].map((k) => p[0] * corners[0][k] + p[1] * corners[1][k] + p[2] * corners[2][k]);
  const svg = node("svg", { width, height, viewBox: `0 0 ${width} ${height}` }), items = [];
  if (panel.title) svg.append(words(panel.title, 0, 14, theme, { size: 12.5, bold: true, room: width }));
  for (const t of [0.25, 0.5, 0.75]) {
    for (const k of [0, 1, 2]) {
      const a = [0, 0, 0], b = [0, 0, 0];
      a[k] = b[k] = t; a[(k + 1) % 3] = 1 - t; b[(k + 2) % 3] = 1 - t;
      svg.append(node("path", { d: `M${at(a)}L${at(b)}`, stroke: theme.grid, "stroke-width": 0.9 }));
    }
  }
  svg.append(node("polygon", { points: corners.map((c) => c.join(",")).join(" "), fill: "none", stroke: theme.muted, "stroke-width": 1.2 }));
  svg.append(words(panel.corners[0], x0 - 6, base + 18, theme, { anchor: "middle", room: 140 }), words(panel.corners[1], x0 + side + 6, base + 18, theme, { anchor: "middle", room: 140 }), words(panel.corners[2], x0 + side / 2, top - 8, theme, { anchor: "middle", room: 160 }));
  for (const [name, packed] of Object.entries(panel.points)) {
    const v = numbers(packed), style = styleOf(panel.styles[name], theme), places = [];
    for (let i = 0; i + 2 < v.length; i += 3) places.push(at(v.slice(i, i + 3)));
    if (places.length > 1) svg.append(node("path", { d: places.map((p, i) => `${i ? "L" : "M"}${p.map((n) => n.toFixed(1))}`).join(""), fill: "none", stroke: style.colour, "stroke-width": 1.6, opacity: 0.7 }));
    const [px, py] = places.at(-1), arrow = panel.arrows[name] && numbers(panel.arrows[name]);
    if (arrow) {
      const [dx, dy] = at(arrow).map((n) => n), length = Math.hypot(dx, dy) || 1, [ux, uy] = [dx / length, dy / length], q = [px + dx, py + dy];
      svg.append(node("path", { d: `M${px},${py}L${q}M${q[0] - 8 * (ux + 0.5 * uy)},${q[1] - 8 * (uy - 0.5 * ux)}L${q}L${q[0] - 8 * (ux - 0.5 * uy)},${q[1] - 8 * (uy + 0.5 * ux)}`, fill: "none", stroke: theme.ink, "stroke-width": 2 }));
    }
    svg.append(node("path", { d: marker(style.marker, px, py, 13), fill: style.colour, stroke: theme.ink, "stroke-width": 0.8 }));
    const last = v.slice(-3);
    items.push({ x: px, y: py, r: 8, key: name, name, lines: [name, ...panel.corners.map((c, k) => `${c} ${exact(last[k])}`)] });
  }
  return { svg, targets: listed(items), legend: Object.entries(panel.styles).map(([name, style]) => ({ name, style, kind: "points" })) };
}
