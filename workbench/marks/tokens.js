// Rows of text tokens, each on the colour of its value.
import { css, exact, inkOn, listed, node, numbers, rgb, textWidth, words } from "./base.js";

const VISIBLE = { "\n": "⏎", "\t": "⇥", " ": "␣", "": "∅" };
const seen = (text) => VISIBLE[text] ?? text.replace(/[\n\t]/g, (c) => VISIBLE[c]);

export function drawTokens(panel, width, theme) {
  const size = 13, high = 22, title = panel.title ? 24 : 4, many = panel.tokens.length > 1;
  const names = many ? Math.min(160, Math.max(...panel.rows.map((r) => textWidth(r, 12)))) + 12 : 0, items = [];
  const svg = node("svg", { width });
  if (panel.title) svg.append(words(panel.title, 0, 14, theme, { size: 12.5, bold: true, room: width }));
  let y = title;
  panel.tokens.forEach((row, r) => {
    const values = numbers(panel.values[r]);
    let x = names;
    if (many) svg.append(words(panel.rows[r], names - 8, y + 15, theme, { anchor: "end", room: 160 }));
    row.forEach((token, i) => {
      const text = seen(token), w = Math.min(width - names, textWidth(text, size) + 8), c = rgb(values[i], panel.colours);
      if (x + w > width) { x = names; y += high + 4; }
      svg.append(node("rect", { x, y, width: w, height: high, rx: 3, fill: c ? css(c) : "none", stroke: c ? "none" : theme.muted, "stroke-dasharray": c ? "" : "2 2" }));
      svg.append(words(text, x + 4, y + 15.5, theme, { size, colour: c ? inkOn(c) : null, room: w - 6 }));
      items.push({ x, y, w, h: high, key: [r, i], name: panel.rows[r], lines: [`“${seen(token)}”, position ${i}`, ...(many ? [panel.rows[r]] : []), `${panel.colours.label || "value"} ${exact(values[i])}`, ...(panel.notes.length && panel.notes[r][i] ? String(panel.notes[r][i]).split("\n") : [])] });
      x += w + 3;
    });
    y += high + 12;
  });
  svg.setAttribute("height", y);
  svg.setAttribute("viewBox", `0 0 ${width} ${y}`);
  return { svg, targets: listed(items), colours: panel.colours };
}
