// Axes of a plane: ends, ticks, names that never overlap, grid.
import { exact, extent, fit, node, percent, scale, textWidth, words } from "./base.js";

const SIZE = 12;

/** Ends of an axis: as given, else from what the marks reach, with a little air. */
export function ends(axis, lists, held) {
  if (axis.names) return [-0.5, axis.names.length - 0.5];
  let [low, high] = extent(lists.map((l) => (axis.log ? l?.filter((v) => v > 0) : l)));
  if (low > high) [low, high] = axis.log ? [1, 10] : [0, 1];
  if (axis.logit) { // air by odds
    const odds = (p) => p / (1 - p), back = (o) => o / (1 + o), a = Math.max(odds(Math.min(low, 0.5)), 1e-12), b = Math.min(odds(Math.max(high, 0.5)), 1e12);
    return [axis.low ?? back(a / 1.5), axis.high ?? back(b * 1.5)];
  }
  const air = axis.log ? (high / low) ** 0.04 : 0.04 * (high - low);
  if (low === high) [low, high] = axis.log ? [low / 2, high * 2] : [low - (Math.abs(low) || 1) * 0.5, high + (Math.abs(high) || 1) * 0.5];
  else if (axis.log) [low, high] = [low / air, high * air];
  else [low, high] = [held.has(low) ? low : low - air, held.has(high) ? high : high + air];
  low = axis.low ?? low;
  high = axis.high ?? high;
  return low < high ? [low, high] : [low, low + (Math.abs(low) || 1)];
}

const format = (axis, low, high) => (axis.percent ? percent : Math.max(Math.abs(low), Math.abs(high)) >= 1e5 ? exact : (v) => exact(Number(v.toPrecision(6))));

/** Of what is counted (epochs, places) whole numbers alone are named. */
function whole(axis, at) {
  const kept = axis.whole && at.at(-1) - at[0] > 2 ? at.filter(Number.isInteger) : at;
  return kept.length > 1 ? kept : at;
}

/** Names below an axis: straight where all fit, else turned, shortened, thinned. Gives `{room, over, draw}`; `over`: pixels that they reach beyond its left end. */
export function below(axis, length, low, high) {
  if (axis.hidden) return { room: 0, over: 0, draw: () => {} };
  const s = scale(low, high, 0, length, axis.log, axis.logit), say = format(axis, low, high);
  let at = axis.ticks.length ? axis.ticks : axis.names ? axis.names.map((_, i) => i) : whole(axis, s.ticks(Math.max(2, Math.floor(length / 75))));
  const called = new Map(axis.ticks.map((v, i) => [v, axis.tick_names[i]]));
  at = at.filter((v) => v >= low && v <= high);
  const name = (v) => called.get(v) ?? (axis.names ? axis.names[Math.round(v)] ?? "" : say(v)), strong = new Set(axis.strong);
  const slot = at.length > 1 ? Math.min(...at.slice(1).map((v, i) => Math.abs(s(v) - s(at[i])))) : length;
  const longest = Math.max(0, ...at.map((v) => textWidth(name(v), SIZE, strong.has(v))));
  const straight = longest <= slot - 6 || at.length === 1;
  const most = 116, tall = straight ? SIZE : Math.min(most, longest);
  const stride = straight ? 1 : Math.max(1, Math.ceil((SIZE + 3) / slot));
  const slanted = !straight && slot >= 26;
  const room = straight ? SIZE + 6 : slanted ? tall * 0.69 + 12 : tall + 8;
  const keep = new Set();
  for (const i of [...at.keys()].filter((k) => strong.has(at[k])).concat([...at.keys()].filter((k) => k % stride === 0))) {
    if ([...keep].every((j) => Math.abs(i - j) >= stride)) keep.add(i);
  }
  const reach = (v) => { const w = textWidth(name(v), SIZE, strong.has(v)); return straight ? w / 2 : slanted ? 0.75 * Math.min(most, w) : SIZE / 2; };
  return {
    room,
    over: Math.max(0, ...[...keep].map((i) => reach(at[i]) - s(at[i]))),
    at: at.map((v) => s(v)),
    draw(svg, x, y, theme) {
      at.forEach((v, i) => {
        if (!keep.has(i)) return;
        const px = x + s(v), bold = strong.has(v);
        if (straight) svg.append(words(name(v), px, y + SIZE + 4, theme, { size: SIZE, anchor: "middle", bold, room: length }));
        else svg.append(words(name(v), px + (slanted ? 3 : 4), y + 9, theme, { size: SIZE, anchor: "end", bold, room: most, turn: slanted ? -42 : -90 }));
      });
    },
  };
}

/** Names left of an axis, thinned where there are too many. */
export function beside(axis, length, low, high, most = 150) {
  if (axis.hidden) return { room: 0, draw: () => {} };
  const s = axis.down || axis.names ? scale(low, high, 0, length, axis.log, axis.logit) : scale(low, high, length, 0, axis.log, axis.logit), say = format(axis, low, high);
  let at = axis.ticks.length ? axis.ticks : axis.names ? axis.names.map((_, i) => i) : whole(axis, s.ticks(Math.max(2, Math.floor(length / 48))));
  const called = new Map(axis.ticks.map((v, i) => [v, axis.tick_names[i]]));
  at = at.filter((v) => v >= low && v <= high);
  const name = (v) => called.get(v) ?? (axis.names ? axis.names[Math.round(v)] ?? "" : say(v)), strong = new Set(axis.strong);
  const keep = [];
  for (const v of [...at].sort((a, b) => strong.has(b) - strong.has(a))) if (keep.every((k) => Math.abs(s(k) - s(v)) >= SIZE + 1)) keep.push(v);
  const room = Math.min(most, Math.max(0, ...at.map((v) => textWidth(name(v), SIZE, strong.has(v))))) + 9;
  return {
    room,
    at: at.map((v) => s(v)),
    draw(svg, x, y, theme) {
      for (const v of keep) svg.append(words(name(v), x - 8, y + s(v) + 4, theme, { size: SIZE, anchor: "end", bold: strong.has(v), room: most }));
    },
  };
}

/** Label of an axis: below in the middle, or upright at the left. */
export function label(text, x, y, room, theme, upright = false) {
  return words(fit(text, room, SIZE), x, y, theme, { size: SIZE, anchor: "middle", turn: upright ? -90 : 0 });
}

export const gridLine = (x1, y1, x2, y2, colour, width = 0.8) => node("line", { x1, y1, x2, y2, stroke: colour, "stroke-width": width });
