// Two orders of the same items, joined; every crossing is a pair that is ordered the other way round.
import { exact, listed, node, numbers, styleOf, textWidth, words } from "./base.js";

export function drawRibbons(panel, width, theme) {
  const left = numbers(panel.left), right = numbers(panel.right), n = panel.names.length, strong = new Set(panel.strong);
  const step = Math.max(n > 30 ? 13 : 18, Math.min(26, 460 / n)), title = panel.title ? 22 : 0, top = title + 34, height = top + n * step + 4;
  const size = Math.min(12.5, step - 2), name = (i) => panel.names[i], longest = Math.max(...panel.names.map((t, i) => textWidth(t, size, strong.has(i))));
  const score = Math.max(0, ...[...panel.left_notes, ...panel.right_notes].map((t) => textWidth(String(t), size))) + 8;
  const room = Math.min(longest, Math.max(50, 0.3 * width - score)), a = Math.max(room + score + 8, Math.min(0.3 * width, textWidth(panel.left_title, 12, true) + 2)), b = Math.min(width - room - score - 8, a + 340);
  const svg = node("svg", { width, height, viewBox: `0 0 ${width} ${height}` }), y = (p) => top + (p + 0.5) * step, items = [];
  if (panel.title) svg.append(words(panel.title, 0, 14, theme, { size: 12.5, bold: true, room: width }));
  svg.append(words(panel.left_title, a, title + 20, theme, { anchor: "end", bold: true, room: a }), words(panel.right_title, b, title + 20, theme, { bold: true, room: width - b }));
  const kind = (i) => (left[i] === right[i] ? "good" : right[i] < left[i] ? "teacher" : "bad"), dash = { good: "", teacher: "7 4", bad: "2 3" };
  for (let i = 0; i < n; i++) {
    const p = y(left[i]), q = y(right[i]), style = styleOf(kind(i), theme), m = (a + b) / 2, bold = strong.has(i);
    svg.append(node("path", { d: `M${a + 6},${p}C${m},${p} ${m},${q} ${b - 6},${q}`, fill: "none", stroke: style.colour, "stroke-width": bold ? 4 : 2.2, "stroke-dasharray": dash[kind(i)], opacity: 0.9 }));
    for (const [x, v] of [[a + 6, p], [b - 6, q]]) svg.append(node("circle", { cx: x, cy: v, r: 3.4, fill: style.colour }));
    const write = (x, v, note, anchor) => {
      svg.append(words(name(i), anchor === "end" ? x - (note ? score : 0) : x + (note ? score : 0), v + 4, theme, { size, anchor, bold, room }));
      if (note) svg.append(words(String(note), anchor === "end" ? x : x + score - 8, v + 4, theme, { size, anchor: "end", colour: theme.muted }));
    };
    write(a - 2, p, panel.left_notes[i], "end");
    write(b + 2, q, panel.right_notes[i], "start");
    const lines = [name(i), `${panel.left_title}: place ${exact(left[i] + 1)}${panel.left_notes[i] ? ` (${panel.left_notes[i]})` : ""}`, `${panel.right_title}: place ${exact(right[i] + 1)}${panel.right_notes[i] ? ` (${panel.right_notes[i]})` : ""}`];
    items.push({ x: a - room - score, y: p - step / 2, w: room + score + 14, h: step, key: i, lines, name: name(i) }, { x: b - 14, y: q - step / 2, w: room + score + 14, h: step, key: i, lines, name: name(i) });
  }
  const meanings = { good: "same place", teacher: "higher on the right", bad: "lower on the right" };
  const legend = Object.entries(meanings).map(([style, text]) => ({ name: text, style, kind: "rule", dash: dash[style] }));
  return { svg, legend, targets: listed(items.sort((p, q) => p.x - q.x || p.y - q.y)) };
}
