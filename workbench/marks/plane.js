// Two axes and the marks on them.
import { below, beside, ends, gridLine, label } from "./axes.js";
import { barsReach, drawBars, drawHistogram, histogramReach, placeBars } from "./bars.js";
import { gridded, listed, node, numbers, scale, words } from "./base.js";
import { drawArea, drawArrows, drawField, drawRule, drawSpan, drawTexts, fieldReach } from "./fields.js";
import { drawLine, drawPoints, lineReach, nameDots, pointsReach } from "./lines.js";

const xy = (m) => [[numbers(m.x)], [numbers(m.y)]];
const plus = (a, b) => numbers(a).map((v, i) => v + numbers(b)[i]);
const REACH = {
  line: lineReach, points: pointsReach, bars: barsReach, histogram: histogramReach, field: fieldReach, area: xy, texts: xy,
  rule: (m) => (m.axis === "x" ? [[[m.value]], []] : m.axis === "y" ? [[], [[m.value]]] : [[], []]),
  span: () => [[], []], arrows: (m) => [[numbers(m.x), plus(m.x, m.dx)], [numbers(m.y), plus(m.y, m.dy)]],
};
const DRAW = { line: drawLine, points: drawPoints, bars: drawBars, histogram: drawHistogram, field: drawField, rule: drawRule, span: drawSpan, arrows: drawArrows, area: drawArea, texts: drawTexts };

export function drawPlane(panel, width, theme, tallest = 300) {
  const { marks } = panel;
  placeBars(marks);
  const reach = marks.map((m) => REACH[m.kind](m)), whole = (side) => reach.every((r) => r[side].every((list) => !list || list.every((v) => !Number.isFinite(v) || Number.isInteger(v)))), ax = { ...panel.x, whole: whole(0) }, ay = { ...panel.y, whole: whole(1) }, held = new Set(marks.flatMap((m) => (m.kind === "bars" ? [m.base] : m.kind === "histogram" ? [0] : [])));
  let [x0, x1] = ends(ax, reach.flatMap((r) => r[0]), marks.some((m) => m.lying) ? held : new Set(marks.some((m) => m.kind === "histogram") ? marks.flatMap((m) => (m.kind === "histogram" ? [numbers(m.edges)[0], numbers(m.edges).at(-1)] : [])) : []));
  let [y0, y1] = ends(ay, reach.flatMap((r) => r[1]), held);
  const field = marks.find((m) => m.kind === "field");
  if (field && !ax.names && ax.low === null) [x0, x1] = [field.x[0], field.x[1]];
  if (field && !ay.names && ay.low === null) [y0, y1] = [field.y[0], field.y[1]];
  const title = panel.title ? 22 : 6, lying = ay.names && marks.some((m) => m.lying);
  const series = marks.filter((m) => m.kind === "bars" && !m.stacked).length, row = Math.min(Math.max(16, 15 * Math.min(3, series)), Math.max(14, 1100 / (ay.names?.length || 1)));
  const rows = lying ? Math.max(60, ay.names.length * row) : null;
  let high = panel.height ?? rows ?? Math.min(300, tallest, Math.max(190, 0.62 * width));
  const left = beside(ay, high, y0, y1, Math.min(200, 0.36 * width)), x = (ay.label ? 20 : 4) + left.room;
  let wide = Math.max(40, width - x - 12);
  if (panel.equal) { // widen the narrower axis, so that a unit is as long on both
    if (panel.height === null) high = Math.min(wide, Math.max(260, tallest));
    const perX = (x1 - x0) / wide, perY = (y1 - y0) / high;
    if (perX < perY && (field || ax.low !== null || ax.high !== null)) wide = (x1 - x0) / perY; // nothing lies beyond its ends
    else if (perX < perY) { const more = (perY * wide - (x1 - x0)) / 2; [x0, x1] = [x0 - more, x1 + more]; } else { const more = (perX * high - (y1 - y0)) / 2; [y0, y1] = [y0 - more, y1 + more]; }
  }
  const side = panel.equal ? beside(ay, high, y0, y1, Math.min(200, 0.36 * width)) : left, foot = below(ax, wide, x0, x1);
  const slack = Math.max(0, foot.over - x); // room for the first turned name
  const box = { x: x + slack, y: title, w: wide - slack, h: high };
  const bottom = slack ? below(ax, box.w, x0, x1) : foot, height = title + high + bottom.room + (ax.label ? 20 : 4);
  const svg = node("svg", { width, height, viewBox: `0 0 ${width} ${height}` });
  const sx = scale(x0, x1, box.x, box.x + box.w, ax.log, ax.logit), down = ay.down || ay.names, sy = down ? scale(y0, y1, box.y, box.y + high, ay.log, ay.logit) : scale(y0, y1, box.y + high, box.y, ay.log, ay.logit);
  if (panel.title) svg.append(words(panel.title, box.x, 14, theme, { size: 12.5, bold: true, room: width - box.x }));
  if (!ay.names && !ay.hidden) for (const p of side.at) svg.append(gridLine(box.x, box.y + p, box.x + box.w, box.y + p, theme.grid));
  if (!ax.names && !ax.hidden) for (const p of bottom.at) svg.append(gridLine(box.x + p, box.y, box.x + p, box.y + high, theme.grid));
  const edge = node("clipPath", { id: `kd-plane-${Math.random().toString(36).slice(2)}` }), inside = node("g", { "clip-path": `url(#${edge.id})` }), items = [];
  edge.append(node("rect", { x: box.x - 10, y: box.y - 10, width: box.w + 20, height: high + 20 })); // markers on the rim are whole
  svg.append(edge, inside);
  const dots = [], taken = []; // dots to name, and places of words, so that none lie on others
  let grid = null;
  for (const mark of marks) {
    const got = DRAW[mark.kind](mark, { svg: inside, x: sx, y: sy, axes: { x: ax, y: ay }, theme, colours: panel.colours, box, dots, taken });
    if (Array.isArray(got)) items.push(...got); else grid = got;
  }
  nameDots(dots, box, theme, inside, taken);
  inside.append(...inside.querySelectorAll(".kd-span"));
  svg.append(gridLine(box.x, box.y + high, box.x + box.w, box.y + high, theme.muted, 1), gridLine(box.x, box.y, box.x, box.y + high, theme.muted, 1));
  side.draw(svg, box.x, box.y, theme);
  bottom.draw(svg, box.x, box.y + high, theme);
  if (ay.label) svg.append(label(ay.label, 12, box.y + high / 2, Math.max(80, high), theme, true));
  if (ax.label) svg.append(label(ax.label, box.x + box.w / 2, height - 6, 2 * Math.min(box.x + box.w / 2, width - box.x - box.w / 2), theme));
  const shown = items.filter((i) => i.r === undefined || (i.x >= box.x - 2 && i.x <= box.x + box.w + 2 && i.y >= box.y - 2 && i.y <= box.y + high + 2));
  if (shown.some((i) => i.order !== undefined)) shown.sort((a, b) => (a.order ?? 0) - (b.order ?? 0));
  if (grid && !shown.length) return { svg, targets: gridded(grid.rows, grid.columns, grid.at, grid.pick, grid.upward), box };
  if (grid) {
    const dots = listed(shown);
    return { svg, box, targets: { ...dots, count: shown.length + grid.rows * grid.columns, at: (k) => (k < shown.length ? dots.at(k) : grid.at(k - shown.length)),
      pick: (a, b) => { const k = dots.pick(a, b); if (k >= 0) return k; const g = grid.pick(a, b); return g < 0 ? -1 : shown.length + g; },
      move: (k, key) => (k < shown.length ? dots.move(k, key) : shown.length + gridded(grid.rows, grid.columns, null, null, grid.upward).move(k - shown.length, key)) } };
  }
  return { svg, box, targets: listed(shown) };
}
