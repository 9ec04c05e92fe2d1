// Live line chart over whole numbers (steps, epochs): SVG, dashes and markers beside colours, follows the theme, readable as text through `alt`.
const NS = "http://www.w3.org/2000/svg";
const COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"];
const DASHES = ["", "7 4", "2 3", "9 3 2 3", "12 4", "1 4"];
const W = 460, H = 250, L = 56, R = 12, T = 14, B = 40;

const node = (name, attributes, text) => {
  const n = document.createElementNS(NS, name);
  for (const [k, v] of Object.entries(attributes)) n.setAttribute(k, v);
  if (text !== undefined) n.textContent = text;
  return n;
};

const short = (x) => (x !== 0 && (Math.abs(x) < 0.01 || Math.abs(x) >= 1e5) ? x.toExponential(1) : String(Number(x.toPrecision(3))));

function ticks(low, high, wanted, least = 0) {
  const raw = (high - low) / wanted || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = Math.max(least, [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw));
  const out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) out.push(i * step);
  return out;
}

function bounds(values) {
  const low = Math.min(...values), high = Math.max(...values);
  if (low === high) return [low - (Math.abs(low) || 1) * 0.1, high + (Math.abs(high) || 1) * 0.1];
  return [low, high];
}

function render({ model, el }) {
  el.classList.add("kd-livechart");
  const draw = () => {
    const series = model.get("series").filter((s) => s.x.length);
    const svg = node("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": model.get("alt") });
    const heading = document.createElement("div");
    heading.className = "kd-title";
    heading.textContent = model.get("title");
    const legend = document.createElement("div");
    legend.className = "kd-legend";
    if (!series.length) {
      svg.append(node("text", { x: W / 2, y: H / 2, "text-anchor": "middle", class: "kd-ink" }, "no points yet"));
    } else {
      const xs = series.flatMap((s) => s.x), x0 = Math.min(...xs), x1 = Math.max(...xs, x0 + 1), [low, high] = bounds(series.flatMap((s) => s.y));
      const pad = (high - low) * 0.06, y0 = low >= 0 && low < 0.35 * high ? 0 : low - pad, y1 = high + pad;
      const px = (x) => L + ((x - x0) / (x1 - x0)) * (W - L - R), py = (y) => H - B - ((y - y0) / (y1 - y0)) * (H - B - T);
      for (const t of ticks(y0, y1, 4)) {
        svg.append(node("line", { x1: L, x2: W - R, y1: py(t), y2: py(t), class: "kd-grid" }));
        svg.append(node("text", { x: L - 7, y: py(t) + 4, "text-anchor": "end", class: "kd-ink" }, short(t)));
      }
      for (const t of ticks(x0, x1, 6, 1)) svg.append(node("text", { x: px(t), y: H - B + 17, "text-anchor": "middle", class: "kd-ink" }, short(t)));
      svg.append(node("line", { x1: L, x2: W - R, y1: H - B, y2: H - B, class: "kd-axis" }));
      svg.append(node("text", { x: (L + W - R) / 2, y: H - 6, "text-anchor": "middle", class: "kd-ink" }, model.get("x_label")));
      series.forEach((s, i) => {
        const colour = COLOURS[i % COLOURS.length], dash = DASHES[i % DASHES.length];
        const points = s.x.map((x, k) => `${px(x).toFixed(1)},${py(s.y[k]).toFixed(1)}`).join(" ");
        svg.append(node("polyline", { points, fill: "none", stroke: colour, "stroke-width": 2.2, "stroke-dasharray": dash }));
        svg.append(node("circle", { cx: px(s.x.at(-1)), cy: py(s.y.at(-1)), r: 3.6, fill: colour }));
        const entry = document.createElement("span"), key = node("svg", { viewBox: "0 0 30 8", class: "kd-key", "aria-hidden": "true" });
        key.append(node("line", { x1: 0, x2: 30, y1: 4, y2: 4, stroke: colour, "stroke-width": 2.6, "stroke-dasharray": dash }));
        entry.append(key, `${s.label}: ${short(s.y.at(-1))}`);
        legend.append(entry);
      });
    }
    el.replaceChildren(heading, svg, legend);
  };
  const events = "change:series change:alt change:title change:x_label";
  let queued = 0;
  const soon = () => { if (!queued) queued = requestAnimationFrame(() => { queued = 0; draw(); }); };
  model.on(events, soon);
  draw();
  return () => { cancelAnimationFrame(queued); model.off(events, soon); };
}

export default { render };
