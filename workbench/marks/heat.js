// A matrix of coloured cells with named rows and columns.
import { below, beside, label } from "./axes.js";
import { css, exact, gridded, imageNode, inkOn, node, numbers, raster, rgb, words } from "./base.js";

const named = (names, hidden) => ({ names, ticks: [], tick_names: [], strong: [], hidden });

export function drawHeat(panel, width, theme, tallest) {
  const [rows, columns] = panel.values.shape, v = numbers(panel.values), grouped = panel.groups.length > 0;
  const title = panel.title ? 22 : 6;
  const starts = panel.groups.map((g) => g[0]), middle = (k, n) => ((starts[k] + (starts[k + 1] ?? n)) / 2) - 0.5;
  const axis = (names, n) => (grouped ? { names: null, ticks: starts.map((_, k) => middle(k, n)), tick_names: panel.groups.map((g) => g[1]), strong: [], hidden: false } : named(names, panel.unnamed));
  const ra = { ...axis(panel.rows, rows), down: true }, ca = axis(panel.columns, columns);
  const left0 = beside(ra, 100, -0.5, rows - 0.5, Math.min(150, 0.34 * width));
  const names = (panel.row_label ? 20 : 4) + left0.room, x = Math.max(names, below(ca, Math.max(40, width - names - 8), -0.5, columns - 0.5).over);
  let wide = Math.max(40, width - x - 8);
  let cell = wide / columns;
  const most = panel.square || rows <= 3 ? 54 : 44, full = Math.min(420, Math.max(Math.min(260, 20 * rows), tallest));
  const high = rows * Math.min(most, full / rows, panel.square ? cell : Math.max(20, Math.min(cell, 30)));
  if (panel.square) { cell = high / rows; wide = Math.min(wide, cell * columns); }
  const left = beside(ra, high, -0.5, rows - 0.5, Math.min(150, 0.34 * width)), foot = below(ca, wide, -0.5, columns - 0.5);
  const height = title + high + foot.room + (panel.column_label ? 22 : 6), cw = wide / columns, ch = high / rows;
  const svg = node("svg", { width, height, viewBox: `0 0 ${width} ${height}` });
  if (panel.title) svg.append(words(panel.title, x, 14, theme, { size: 12.5, bold: true, room: width - x }));
  const open = node("pattern", { id: `kd-open-${Math.random().toString(36).slice(2)}`, width: 6, height: 6, patternUnits: "userSpaceOnUse" });
  open.append(node("path", { d: "M-1,7L7,-1", stroke: theme.muted, "stroke-width": 1 }));
  svg.append(open, node("rect", { x, y: title, width: wide, height: high, fill: `url(#${open.id})` }));
  svg.append(imageNode(raster(columns, rows, (i) => rgb(v[i], panel.colours)), x, title, wide, high));
  if (panel.numbers || panel.texts.length) {
    const digits = Number(/\.(\d)/.exec(panel.numbers)?.[1] ?? 2), share = panel.numbers.includes("%"), sign = panel.numbers.startsWith("+");
    const format = (a) => `${sign && a >= 0 ? "+" : ""}${(share ? 100 * a : a).toFixed(panel.numbers.includes("d") ? 0 : digits)}`.replace("-", "−");
    const write = (a, i) => (panel.texts.length ? panel.texts[Math.floor(i / columns)][i % columns] : format(a));
    const size = Math.min(12, ch - 3, (1.6 * (cw - 4)) / Math.max(1, ...Array.from(v, (a, i) => (Number.isFinite(a) ? write(a, i).length : 1))));
    if (size >= 7) v.forEach((a, i) => {
      const c = rgb(a, panel.colours);
      if (c) svg.append(words(write(a, i), x + ((i % columns) + 0.5) * cw, title + (Math.floor(i / columns) + 0.5) * ch + 0.36 * size, theme, { size, anchor: "middle", colour: inkOn(c) }));
    });
  }
  for (const s of starts.filter((g) => g > 0)) {
    svg.append(node("path", { d: `M${x + s * cw},${title}V${title + high}M${x},${title + s * ch}H${x + wide}`, stroke: "#777777", "stroke-width": 0.8 }));
  }
  for (const [r, c] of panel.framed) svg.append(node("rect", { x: x + c * cw + 1.5, y: title + r * ch + 1.5, width: Math.max(1, cw - 3), height: Math.max(1, ch - 3), fill: "none", stroke: "#D55E00", "stroke-width": 3 }));
  const spot = (r, c) => [x + (c + 0.5) * cw, title + (r + 0.5) * ch];
  for (const [r, c] of panel.dotted) {
    const [a, b] = spot(r, c);
    svg.append(node("circle", { cx: panel.numbers ? a + cw / 2 - 8 : a, cy: panel.numbers ? b - ch / 2 + 7 : b, r: Math.min(5, ch / 3, cw / 3), fill: "#009E73", stroke: "#ffffff", "stroke-width": 1.6 }));
  }
  for (const [r, c] of panel.crossed) {
    const a = x + (c + 0.5) * cw, b = title + (r + 0.5) * ch, s = Math.min(7, ch / 3, cw / 3);
    svg.append(node("path", { d: `M${a - s},${b - s}L${a + s},${b + s}M${a - s},${b + s}L${a + s},${b - s}`, stroke: "#ffffff", "stroke-width": 5 }), node("path", { d: `M${a - s},${b - s}L${a + s},${b + s}M${a - s},${b + s}L${a + s},${b - s}`, stroke: "#D55E00", "stroke-width": 2.6 }));
  }
  left.draw(svg, x, title, theme);
  foot.draw(svg, x, title + high, theme);
  if (panel.row_label) svg.append(label(panel.row_label, 12, title + high / 2, Math.max(90, high), theme, true));
  if (panel.column_label) svg.append(label(panel.column_label, x + wide / 2, height - 6, 2 * Math.min(x + wide / 2, width - x - wide / 2), theme));
  const at = (k) => {
    const r = Math.floor(k / columns), c = k % columns;
    return { x: x + c * cw, y: title + r * ch, w: cw, h: ch, key: [r, c],
      lines: [`${panel.row_label ? `${panel.row_label}: ` : ""}${panel.rows[r]}`, `${panel.column_label ? `${panel.column_label}: ` : ""}${panel.columns[c]}`, `${panel.colours.label || "value"} ${exact(v[k])}`, ...["framed", "dotted", "crossed"].filter((m) => panel.meanings[m] && panel[m].some(([a, b]) => a === r && b === c)).map((m) => panel.meanings[m]), ...(panel.notes.length && panel.notes[r][c] ? String(panel.notes[r][c]).split("\n") : [])] };
  };
  const pick = (a, b) => {
    const c = Math.floor((a - x) / cw), r = Math.floor((b - title) / ch);
    return c >= 0 && c < columns && r >= 0 && r < rows ? r * columns + c : -1;
  };
  const legend = ["framed", "dotted", "crossed"].filter((k) => panel.meanings[k] && panel[k].length).map((k) => ({ name: panel.meanings[k], style: k === "dotted" ? "good" : "bad", kind: k }));
  return { svg, targets: gridded(rows, columns, at, pick), colours: panel.colours, legend };
}
