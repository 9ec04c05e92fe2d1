// What all marks share: arrays, numbers, scales, colours, words that fit, and one way to point at things.
const NS = "http://www.w3.org/2000/svg";
export const FONT = "system-ui, -apple-system, 'Segoe UI', 'Noto Sans', 'DejaVu Sans', sans-serif";
const OKABE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999", "#F0E442"];
const DASHES = ["", "7 4", "8 3 2 3", "2 3", "12 3", "8 3 2 3 2 3"];
const SCHEMES = { // cividis and PuOr at 33 equal steps
  sequential: "00224e00285b002e6a0533711a386f273e6e32436d3b496c434e6c4b546c535a6d5a5f6e61656f686a716f70737676767d7c788482798c8878938e789b9476a39a74aba072b4a76fbcae6cc4b468cdbb63d5c25edec958e7d150f0d846f9e03afee838",
  diverging: "7f3b088f4407a04d07b05607be630acd700edb7d12e68d23ef9e3cf8ae55fdbd6efdca88fed7a2fde2bbfbe9cff9f0e4f6f6f7ededf3e3e4efd9dbebcecde4c2bedcb6b0d4a79fca988dbe887cb27967a66b4f9b5d379050238244176f380b5c2d004b",
  grey: "000000ffffff",
};

export const node = (name, attributes = {}, text) => {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== "") made.setAttribute(key, value);
  }
  if (text !== undefined) made.textContent = text;
  return made;
};

export const html = (name, className, text) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

// Arrays ---------------------------------------------------------------------------------------------------------
const TYPES = { uint8: Uint8Array, int32: Int32Array, float32: Float32Array, float64: Float64Array };

/** The numbers of a packed array (base64 text on a page, a DataView from a kernel), or null. */
export function numbers(packed) {
  if (packed === null || packed === undefined) return null;
  if (packed.values) return packed.values;
  const { data, dtype } = packed;
  let bytes;
  if (typeof data === "string") bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  else bytes = new Uint8Array(data.buffer ?? data, data.byteOffset ?? 0, data.byteLength);
  packed.values = new TYPES[dtype](bytes.slice().buffer); // copied: offsets need not be whole elements
  return packed.values;
}

// Numbers as text ------------------------------------------------------------------------------------------------
const MINUS = (text) => text.replace("-", "−");

/** Four digits, as everywhere in the project. */
export function exact(x) {
  if (x === null || x === undefined || Number.isNaN(x)) return "none";
  if (!Number.isFinite(x)) return x > 0 ? "∞" : "−∞";
  if (Math.abs(x) >= 1000 && Math.abs(x) < 1e7) return MINUS(x.toFixed(0));
  if (x !== 0 && (Math.abs(x) < 1e-4 || Math.abs(x) >= 1e7)) return MINUS(x.toExponential(3).replace(/\.?0+e/, "e"));
  return MINUS(String(Number(x.toPrecision(4))));
}

export const percent = (x) => MINUS(`${Number((100 * x).toPrecision(4))} %`);

// Scales ---------------------------------------------------------------------------------------------------------
/** Round numbers within [low, high], about `wanted` of them. */
export function ticks(low, high, wanted) {
  const raw = (high - low) / Math.max(1, wanted), power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw * (1 - 1e-9)) ?? raw;
  const out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) out.push(Number((i * step).toPrecision(12)));
  return out;
}

function logTicks(low, high, wanted) {
  const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
  const every = Math.max(1, Math.ceil((last - first) / wanted));
  const out = [];
  for (let e = first; e <= last; e += every) {
    for (const m of every > 1 || last - first > 3 ? [1] : last - first > 1 ? [1, 3] : [1, 2, 3, 5]) {
      const v = m * 10 ** e;
      if (v >= low * 0.999 && v <= high * 1.001) out.push(Number(v.toPrecision(12)));
    }
  }
  return out.length ? out : [low, high];
}

/** From data to pixels: `scale(v)`, with `invert`, `ticks(n)` and the ends. */
export function scale(low, high, from, to, log = false, logit = false) {
  const f = log ? Math.log : logit ? (p) => Math.log(p / (1 - p)) : (v) => v, g = log ? Math.exp : logit ? (v) => 1 / (1 + Math.exp(-v)) : (v) => v, a = f(low), b = f(high);
  const made = (v) => from + ((f(v) - a) / (b - a)) * (to - from);
  made.invert = (p) => g(a + ((p - from) / (to - from)) * (b - a));
  made.ticks = (n) => (log ? logTicks(low, high, n) : ticks(low, high, n));
  made.log = log;
  [made.low, made.high, made.from, made.to] = [low, high, from, to];
  return made;
}

/** Smallest and largest finite number of some lists. */
export function extent(lists) {
  let low = Infinity, high = -Infinity;
  for (const list of lists) {
    for (const v of list ?? []) {
      if (v < low && v > -Infinity) low = v;
      if (v > high && v < Infinity) high = v;
    }
  }
  return [low, high];
}

// Colours and styles ---------------------------------------------------------------------------------------------
const parse = (hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16));
const STOPS = Object.fromEntries(Object.entries(SCHEMES).map(([k, text]) => [k, text.match(/.{6}/g).map(parse)]));

/** `[r, g, b]` of a value on a colour scale, null where there is none. */
export function rgb(value, colours) {
  if (value === null || Number.isNaN(value)) return null;
  const stops = STOPS[colours.scheme], u = Math.min(1, Math.max(0, (value - colours.low) / (colours.high - colours.low))), t = colours.reverse ? 1 - u : u;
  const at = t * (stops.length - 1), i = Math.min(stops.length - 2, Math.floor(at)), w = at - i;
  return stops[i].map((c, k) => Math.round(c + w * (stops[i + 1][k] - c)));
}

export const css = (c) => `rgb(${c[0]},${c[1]},${c[2]})`;

/** Black or white, whichever has the higher contrast on a colour. */
export function inkOn([r, g, b]) {
  const [x, y, z] = [r, g, b].map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return (0.2126 * x + 0.7152 * y + 0.0722 * z + 0.05) ** 2 > 1.05 * 0.05 ? "#000000" : "#ffffff";
}

/** Ink, paper and so on as the page's style sheet says now. */
export function themeOf(el) {
  const style = getComputedStyle(el), read = (name) => style.getPropertyValue(`--kd-${name}`).trim();
  return { ink: read("ink"), paper: read("paper"), grid: read("grid"), muted: read("muted") };
}

/** Colour, dash, marker and hatch of a style: never colour alone. */
export function styleOf(style, theme) {
  const named = {
    student: { colour: OKABE[1], dash: "7 4", marker: 1, hatch: 1 }, teacher: { colour: OKABE[0], dash: "", marker: 0, hatch: 0 },
    good: { colour: OKABE[2], dash: "", marker: 2, hatch: 0 }, bad: { colour: OKABE[5], dash: "2 3", marker: 4, hatch: 4 },
    light: { colour: "#ffffff", dash: "", marker: 0, hatch: 0, rim: "#000000" },
    ink: { colour: theme.ink, dash: "7 4", marker: 0, hatch: 0 }, muted: { colour: theme.muted, dash: "2 3", marker: 0, hatch: 0 },
  };
  return named[style] ?? { colour: OKABE[style % 8], dash: DASHES[style % 6], marker: (style + Math.floor(style / 8)) % 8, hatch: (style + Math.floor(style / 8)) % 8 };
}

/** Path of a marker of diameter `d` around (x, y). */
export function marker(kind, x, y, d) {
  const r = d / 2, p = (points) => `M${points.map(([a, b]) => `${(x + a * r).toFixed(1)},${(y + b * r).toFixed(1)}`).join("L")}Z`;
  switch (kind % 8) {
    case 1: return p([[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]]);
    case 2: return p([[0, -1.15], [1.05, 0.8], [-1.05, 0.8]]);
    case 3: return p([[0, -1.25], [1.25, 0], [0, 1.25], [-1.25, 0]]);
    case 4: return p([[0, 1.15], [1.05, -0.8], [-1.05, -0.8]]);
    case 5: return p([[-0.4, -1.2], [0.4, -1.2], [0.4, -0.4], [1.2, -0.4], [1.2, 0.4], [0.4, 0.4], [0.4, 1.2], [-0.4, 1.2], [-0.4, 0.4], [-1.2, 0.4], [-1.2, -0.4], [-0.4, -0.4]]);
    case 6: return p([[-1.2, -0.6], [-0.6, -1.2], [0, -0.6], [0.6, -1.2], [1.2, -0.6], [0.6, 0], [1.2, 0.6], [0.6, 1.2], [0, 0.6], [-0.6, 1.2], [-1.2, 0.6], [-0.6, 0]]);
    case 7: return p([[0, -1.35], [0.35, -0.45], [1.3, -0.4], [0.55, 0.2], [0.8, 1.1], [0, 0.6], [-0.8, 1.1], [-0.55, 0.2], [-1.3, -0.4], [-0.35, -0.45]]);
    default: return `M${(x - r).toFixed(1)},${y.toFixed(1)}a${r},${r} 0 1,0 ${d},0a${r},${r} 0 1,0 ${-d},0Z`;
  }
}

let made = 0;
/** A hatch over bars, as a fill; null for the plain one. */
export function hatch(svg, kind, ink) {
  if (!kind) return null;
  const id = `kd-hatch-${Math.random().toString(36).slice(2, 8)}-${made++}`;
  const pattern = node("pattern", { id, width: 8, height: 8, patternUnits: "userSpaceOnUse" });
  const line = (d) => pattern.append(node("path", { d, stroke: ink, "stroke-width": 1, fill: "none", opacity: 0.55 }));
  if (kind === 1 || kind === 3) line("M-2,2L2,-2M0,8L8,0M6,10L10,6");
  if (kind === 4 || kind === 3) line("M-2,6L2,10M0,0L8,8M6,-2L10,2");
  if (kind === 2) pattern.append(node("circle", { cx: 4, cy: 4, r: 1.3, fill: ink, opacity: 0.6 }));
  if (kind === 5) pattern.append(node("circle", { cx: 4, cy: 4, r: 2.4, fill: "none", stroke: ink, opacity: 0.6 }));
  if (kind === 6 || kind === 7) line("M0,4L8,4");
  if (kind === 7) line("M4,0L4,8");
  svg.append(pattern);
  return `url(#${id})`;
}

/** A picture of `columns` x `rows` coloured cells as a data address. */
export function raster(columns, rows, colourAt) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [columns, rows];
  const context = canvas.getContext("2d"), image = context.createImageData(columns, rows);
  for (let i = 0; i < columns * rows; i++) {
    const c = colourAt(i);
    if (c) image.data.set([c[0], c[1], c[2], c[3] ?? 255], 4 * i);
  }
  context.putImageData(image, 0, 0);
  return canvas.toDataURL();
}

export const imageNode = (href, x, y, width, height, smooth = false) =>
  node("image", { href, x, y, width, height, preserveAspectRatio: "none", style: smooth ? "" : "image-rendering:pixelated" });

// Words ----------------------------------------------------------------------------------------------------------
let pen = null;
const widths = new Map();

/** Width of one line in pixels. */
export function textWidth(text, size = 12, bold = false) {
  const key = `${bold ? "b" : ""}${size}|${text}`;
  let width = widths.get(key);
  if (width === undefined) {
    pen ??= document.createElement("canvas").getContext("2d");
    pen.font = `${bold ? "600 " : ""}${size}px ${FONT}`;
    width = pen.measureText(text).width;
    if (widths.size > 20000) widths.clear();
    widths.set(key, width);
  }
  return width;
}

/** The text, or as much of its beginning and end as fits: names that end in a number stay apart. */
export function fit(text, room, size = 12, bold = false) {
  const line = String(text).replace(/\s+/g, " ");
  if (textWidth(line, size, bold) <= room) return line;
  const letters = [...line];
  let low = 1, high = letters.length - 1;
  const cut = (n) => `${letters.slice(0, Math.ceil(n / 2)).join("").trimEnd()}…${letters.slice(letters.length - Math.floor(n / 2)).join("").trimStart()}`;
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (textWidth(cut(middle), size, bold) <= room) low = middle; else high = middle - 1;
  }
  return cut(low);
}

/** Up to `lines` lines of at most `room` pixels, broken at spaces; the last one is fitted. */
export function wrap(text, room, size = 12, lines = 2) {
  const out = [];
  let rest = String(text).split(/\s+/);
  while (rest.length && out.length < lines - 1) {
    let n = 1;
    while (n < rest.length && textWidth(rest.slice(0, n + 1).join(" "), size) <= room) n++;
    out.push(fit(rest.slice(0, n).join(" "), room, size));
    rest = rest.slice(n);
  }
  if (rest.length) out.push(fit(rest.join(" "), room, size));
  return out;
}

/** Words in the picture; the whole of what was shortened is its title. */
export function words(text, x, y, theme, { size = 12, anchor = "start", bold = false, room = Infinity, turn = 0, colour = null } = {}) {
  const shown = room === Infinity ? String(text) : fit(text, room, size, bold);
  const made = node("text", {
    x: x.toFixed(1), y: y.toFixed(1), "font-size": size, "font-family": FONT, "text-anchor": anchor, fill: colour ?? theme.ink,
    "font-weight": bold ? 600 : null, transform: turn ? `rotate(${turn} ${x.toFixed(1)} ${y.toFixed(1)})` : null, direction: null,
  }, shown);
  made.style.unicodeBidi = "plaintext";
  if (shown !== String(text)) made.append(node("title", {}, String(text)));
  return made;
}

// Pointing -------------------------------------------------------------------------------------------------------
/** Things to point at from a list of `{x, y, w, h, key, lines}`: boxes from their corner, or dots (`r`) from their middle. */
export function listed(items) {
  const middle = (i) => (i.r === undefined ? [i.x + i.w / 2, i.y + i.h / 2] : [i.x, i.y]);
  return {
    count: items.length,
    at: (k) => items[k],
    pick(x, y) {
      let best = -1, near = 18 ** 2;
      for (let k = items.length - 1; k >= 0; k--) {
        const i = items[k];
        if (i.r === undefined) {
          if (x >= i.x && x <= i.x + i.w && y >= i.y && y <= i.y + i.h) return k;
          if (i.column !== undefined && x >= i.column[0] && x <= i.column[1]) { // bars: the nearest in the column under the pointer
            const d = Math.abs(x - i.x - i.w / 2) ** 2 / 1e3;
            if (d < near) [best, near] = [k, d];
          }
        } else {
          const d = (x - i.x) ** 2 + (y - i.y) ** 2;
          if (d < near) [best, near] = [k, d];
        }
      }
      return best;
    },
    move(k, key) {
      if (key === "Home") return 0;
      if (key === "End") return items.length - 1;
      if (key === "ArrowRight") return Math.min(items.length - 1, k + 1);
      if (key === "ArrowLeft") return Math.max(0, k - 1);
      const [x, y] = middle(items[k]), down = key === "ArrowDown" ? 1 : -1;
      let best = k, cost = Infinity;
      items.forEach((i, n) => {
        const [a, b] = middle(i), along = (b - y) * down, d = along + 3 * Math.abs(a - x);
        if (along > 0.5 && d < cost) [best, cost] = [n, d];
      });
      return best;
    },
  };
}

/** Cells of a grid as things to point at: `at(k)` is asked for one at a time; `upward`: row 0 lies at the bottom. */
export function gridded(rows, columns, at, pick, upward = false) {
  return {
    count: rows * columns,
    at,
    pick,
    move(k, pressed) {
      const key = (upward && { ArrowUp: "ArrowDown", ArrowDown: "ArrowUp" }[pressed]) || pressed;
      const r = Math.floor(k / columns), c = k % columns;
      const [a, b] = {
        ArrowRight: [r, Math.min(columns - 1, c + 1)], ArrowLeft: [r, Math.max(0, c - 1)], ArrowDown: [Math.min(rows - 1, r + 1), c],
        ArrowUp: [Math.max(0, r - 1), c], Home: [r, 0], End: [r, columns - 1],
      }[key] ?? [r, c];
      return a * columns + b;
    },
  };
}
