// Nodes and edges at given places.
import { css, exact, extent, listed, marker, node, numbers, rgb, styleOf, textWidth, words } from "./base.js";

export function drawGraph(panel, width, theme, tallest) {
  const p = numbers(panel.positions), n = panel.positions.shape[0], e = numbers(panel.edges), m = panel.edges.shape[1], values = numbers(panel.values), widths = numbers(panel.widths);
  const xs = p.filter((_, i) => i % 2 === 0), ys = p.filter((_, i) => i % 2 === 1), [x0, x1] = extent([xs]), [y0, y1] = extent([ys]);
  const title = panel.title ? 22 : 4, pad = 44, spanX = x1 - x0 || 1, spanY = y1 - y0 || 1;
  const unit = Math.min((width - 2 * pad) / spanX, Math.min(380, Math.max(260, tallest)) / spanY), height = Math.max(160, title + unit * spanY + 2 * pad - 20);
  const x = (i) => width / 2 + (xs[i] - (x0 + x1) / 2) * unit, y = (i) => title + (height - title) / 2 - (ys[i] - (y0 + y1) / 2) * unit;
  const svg = node("svg", { width, height, viewBox: `0 0 ${width} ${height}` }), d = n > 150 ? 7 : n > 60 ? 10 : 14;
  if (panel.title) svg.append(words(panel.title, 0, 14, theme, { size: 12.5, bold: true, room: width }));
  const groups = new Map(), degree = new Array(n).fill(0);
  for (let k = 0; k < m; k++) {
    const a = e[k], b = e[m + k], w = widths ? Math.abs(widths[k]).toFixed(1) : "1", key = `${w}${widths && widths[k] < 0 ? "-" : ""}`;
    degree[a]++; degree[b]++;
    let path = `M${x(a).toFixed(1)},${y(a).toFixed(1)}L${x(b).toFixed(1)},${y(b).toFixed(1)}`;
    const length = Math.hypot(x(b) - x(a), y(b) - y(a));
    if (panel.directed && length > d) {
      const ux = (x(b) - x(a)) / length, uy = (y(b) - y(a)) / length, qx = x(b) - (ux * d) / 2, qy = y(b) - (uy * d) / 2;
      path += `M${(qx - 7 * (ux + 0.5 * uy)).toFixed(1)},${(qy - 7 * (uy - 0.5 * ux)).toFixed(1)}L${qx.toFixed(1)},${qy.toFixed(1)}L${(qx - 7 * (ux - 0.5 * uy)).toFixed(1)},${(qy - 7 * (uy + 0.5 * ux)).toFixed(1)}`;
    }
    groups.set(key, (groups.get(key) ?? "") + path);
  }
  for (const [key, path] of groups) svg.append(node("path", { d: path, fill: "none", stroke: theme.muted, "stroke-width": parseFloat(key), "stroke-dasharray": key.endsWith("-") ? "4 3" : "", opacity: m > 200 ? 0.45 : 0.75 }));
  const items = [], taken = [];
  for (let i = 0; i < n; i++) {
    const style = styleOf(panel.styles[i] ?? 0, theme), c = values ? rgb(values[i], panel.colours) : null, fill = values ? (c ? css(c) : theme.paper) : style.colour, strong = Boolean(panel.strong[i]);
    svg.append(node("path", { d: marker(values ? 0 : style.marker, x(i), y(i), d), fill, stroke: strong ? theme.ink : values && !c ? theme.muted : theme.paper, "stroke-width": strong ? 2.6 : 1 }));
    items.push({ x: x(i), y: y(i), r: d / 2 + 2, key: i, lines: [panel.names[i] ?? `node ${i}`, `${degree[i]} edge${degree[i] === 1 ? "" : "s"}`, ...(values ? [`${panel.colours.label || "value"} ${exact(values[i])}`] : []), ...(panel.notes[i] ? String(panel.notes[i]).split("\n") : [])] });
  }
  const order = [...Array(n).keys()].sort((a, b) => (panel.strong[b] ? 1e6 : 0) - (panel.strong[a] ? 1e6 : 0) + degree[b] - degree[a]);
  for (const i of panel.names.length ? order : []) { // names that would touch another one are told on hover
    const w = Math.min(130, textWidth(panel.names[i], 11)), right = x(i) + d + w < width, left = right ? x(i) + d / 2 + 3 : x(i) - d / 2 - 3 - w, box = [left, y(i) - 7, w, 14];
    if (taken.some((t) => box[0] < t[0] + t[2] && t[0] < box[0] + w && box[1] < t[1] + 14 && t[1] < box[1] + 14)) continue;
    taken.push(box);
    const made = words(panel.names[i], left, y(i) + 4, theme, { size: 11, bold: Boolean(panel.strong[i]), room: 130 });
    made.setAttribute("paint-order", "stroke"); made.setAttribute("stroke", theme.paper); made.setAttribute("stroke-width", 3);
    svg.append(made);
  }
  return { svg, targets: listed(items), colours: values ? panel.colours : null, legend: Object.entries(panel.legend).map(([name, style]) => ({ name, style, kind: "points" })) };
}
