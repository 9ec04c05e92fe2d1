// Images in a grid with captions, and maps of values over them.
import { exact, gridded, imageNode, node, numbers, raster, rgb, textWidth, words, wrap } from "./base.js";

export function drawImages(panel, width, theme) {
  const [count, tall, broad, channels = 1] = panel.images.shape, v = numbers(panel.images), maps = numbers(panel.maps);
  const per = Math.max(1, Math.min(panel.columns ?? (count <= 5 ? count : count <= 10 ? 5 : count <= 40 ? 8 : 10), count || 1));
  const names = panel.rows.length ? Math.min(150, Math.max(...panel.rows.map((r) => textWidth(r, 12)))) + 12 : 0, whole = width;
  width -= names;
  const gap = panel.rows.length ? 8 : 12, title = panel.title ? 22 : 4, most = panel.rows.length ? Math.max(44, ((620 / panel.rows.length - 27) * broad) / tall) : Infinity, w = Math.max(20, Math.min(panel.size, most, (width - gap * (per - 1)) / per)), h = (w * tall) / broad;
  const room = Math.min(w + gap - 4, (width + gap) / per - 4), texts = panel.captions.map((c) => c.split("\n").filter((part, i, parts) => part || parts.length > 1).flatMap((part) => wrap(part, Math.max(room, 40), 11.5, 2)));
  const lines = Math.max(0, ...texts.map((t) => t.length)), step = h + 15 * lines + 12, rows = Math.ceil(count / per);
  const height = title + rows * step, x = (k) => names + (k % per) * (w + gap), y = (k) => title + Math.floor(k / per) * step;
  const svg = node("svg", { width: whole, height, viewBox: `0 0 ${whole} ${height}` });
  panel.rows.forEach((r, i) => wrap(r, 150, 12, 3).forEach((t, n, all) => svg.append(words(t, names - 8, title + i * step + h / 2 + 4 + 14 * (n - (all.length - 1) / 2), theme, { anchor: "end" }))));
  if (panel.title) svg.append(words(panel.title, 0, 14, theme, { size: 12.5, bold: true, room: width }));
  const size = tall * broad, within = (a, half) => Math.max(half, Math.min(whole - half, a));
  for (let k = 0; k < count; k++) {
    const picture = raster(broad, tall, (i) => (channels === 3 ? [0, 1, 2].map((c) => v[(k * size + i) * 3 + c]) : Array(3).fill(v[k * size + i])));
    svg.append(imageNode(picture, x(k), y(k), w, h));
    if (maps) {
      const [, mh, mw] = panel.maps.shape;
      const layer = raster(mw, mh, (i) => { const c = rgb(maps[k * mh * mw + i], panel.colours); return c && [...c, Math.round(255 * panel.opacity)]; });
      svg.append(imageNode(layer, x(k), y(k), w, h, panel.smooth));
    }
    svg.append(node("rect", { x: x(k), y: y(k), width: w, height: h, fill: "none", stroke: panel.framed[k] ? "#D55E00" : theme.grid, "stroke-width": panel.framed[k] ? 3.5 : 0.8 }));
    Object.values(panel.boxes).forEach((packed, n) => {
      const b = numbers(packed).slice(4 * k, 4 * k + 4), r = { x: x(k) + b[0] * w, y: y(k) + b[1] * h, width: Math.max(0, (b[2] - b[0]) * w), height: Math.max(0, (b[3] - b[1]) * h), fill: "none" };
      if (!b.every(Number.isFinite)) return;
      svg.append(node("rect", { ...r, stroke: "#ffffff", "stroke-width": 4 }), node("rect", { ...r, stroke: n ? "#D55E00" : "#009E73", "stroke-width": 2.2, "stroke-dasharray": n ? "5 3" : "" }));
    });
    texts[k].forEach((t, i) => svg.append(words(t, within(x(k) + w / 2, textWidth(t, 11.5) / 2), y(k) + h + 14 + 15 * i, theme, { size: 11.5, anchor: "middle" })));
  }
  const columns = per, shown = (k) => k < count;
  const at = (k) => {
    const extra = maps ? (() => { const part = maps.slice(k * maps.length / count, (k + 1) * maps.length / count).filter(Number.isFinite); return part.length ? [`${panel.colours.label || "value"}: mean ${exact(part.reduce((a, b) => a + b, 0) / part.length)}, highest ${exact(part.reduce((a, b) => Math.max(a, b), -Infinity))}`] : []; })() : [];
    return { x: x(k), y: y(k), w, h, key: k, lines: [...panel.captions[k].split("\n"), ...(panel.notes[k] ? String(panel.notes[k]).split("\n") : []), ...extra] };
  };
  const cell = (a, b, k) => { // the value of the map under the pointer
    if (!maps) return null;
    const [, mh, mw] = panel.maps.shape, c = Math.min(mw - 1, Math.floor(((a - x(k)) / w) * mw)), r = Math.min(mh - 1, Math.floor(((b - y(k)) / h) * mh));
    return `row ${r}, column ${c}: ${exact(maps[(k * mh + r) * mw + c])}`;
  };
  const pick = (a, b) => {
    const c = Math.floor((a - names) / (w + gap)), r = Math.floor((b - title) / step), k = r * per + c;
    return c >= 0 && c < per && a - names - c * (w + gap) <= w && b >= title && shown(k) ? k : -1;
  };
  const targets = gridded(rows, columns, at, pick), move = targets.move;
  return { svg, targets: { ...targets, count, move: (k, key) => Math.min(count - 1, move(k, key)), detail: cell }, colours: maps ? panel.colours : null, legend: Object.keys(panel.boxes).map((name, n) => ({ name, style: n ? "bad" : "good", kind: "box", dash: n ? "5 3" : "" })) };
}
