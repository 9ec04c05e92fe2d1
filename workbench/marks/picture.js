// A picture: panels in a grid, legend, colour bars, pointing by mouse and keyboard. Drawn for a kernel or on a page.
import { FONT, css, exact, hatch, html, marker, node, rgb, styleOf, textWidth, themeOf, words } from "./base.js";
import { drawGraph } from "./graph.js";
import { drawHeat } from "./heat.js";
import { drawImages } from "./images.js";
import { drawPlane } from "./plane.js";
import { drawRibbons } from "./ribbons.js";
import { drawSimplex } from "./simplex.js";
import { drawTable } from "./table.js";
import { drawTokens } from "./tokens.js";

const VERSION = 1;
const PANELS = { plane: drawPlane, heat: drawHeat, images: drawImages, ribbons: drawRibbons, simplex: drawSimplex, tokens: drawTokens, graph: drawGraph, table: drawTable };
const KEYS = ["ArrowRight", "ArrowLeft", "ArrowUp", "ArrowDown", "Home", "End"];
const WIDEST = 880, GAP = 22, NARROW = 520;

/** Names with their keys: those that share a panel with others; rules and arrows always. */
function legendEntries(panels, drawn) {
  const seen = new Map();
  panels.forEach((p, i) => {
    const marks = (p.marks ?? []).filter((m) => m.name && m.kind !== "span" && !m.styles?.length && !(m.kind === "points" && m.values));
    const entries = [...marks.map((m) => ({ name: m.name, style: m.style, kind: m.kind, ring: m.ring, head: m.kind === "arrows" && m.head, bare: m.kind === "line" && !(m.dots ?? (!m.fine && m.x.shape[0] <= 30)) })), ...(drawn[i].legend ?? [])];
    const always = (e) => ["rule", "arrows", "framed", "dotted", "crossed", "box"].includes(e.kind), several = (p.marks ?? []).some((m) => m.kind === "field") || new Set(entries.filter((e) => !always(e)).map((e) => e.name)).size > 1;
    for (const e of entries) if (!seen.has(e.name) && (several || always(e))) seen.set(e.name, e);
  });
  return [...seen.values()];
}

function legend(shown, width, theme) {
  if (!shown.length) return null;
  let x = 0, y = 0;
  const svg = node("svg", { "aria-hidden": "true" });
  for (const [k, e] of shown.entries()) {
    const style = styleOf(e.style, theme), w = Math.min(220, textWidth(e.name, 12)) + 52;
    if (x && x + w > width) { x = 0; y += 20; }
    if (y >= 120 && k < shown.length - 1) { svg.append(words(`and ${shown.length - k} more, told where they are pointed at`, 0, y + 14, theme)); break; }
    if (["bars", "area", "histogram"].includes(e.kind)) {
      svg.append(node("rect", { x: x + 8, y: y + 4, width: 22, height: 12, fill: style.colour, "fill-opacity": e.kind === "bars" ? 1 : 0.35, stroke: e.kind === "bars" ? theme.ink : style.colour, "stroke-width": e.kind === "bars" ? 0.5 : 1.6, "stroke-dasharray": e.kind === "bars" ? "" : style.dash }));
      const lines = e.kind === "bars" && hatch(svg, style.hatch, theme.ink);
      if (lines) svg.append(node("rect", { x: x + 8, y: y + 4, width: 22, height: 12, fill: lines }));
    } else if (["framed", "box"].includes(e.kind)) {
      svg.append(node("rect", { x: x + 9, y: y + 4, width: 20, height: 12, fill: "none", stroke: style.colour, "stroke-width": e.kind === "box" ? 2.2 : 3, "stroke-dasharray": e.dash }));
    } else if (e.kind === "crossed") {
      svg.append(node("path", { d: `M${x + 13},${y + 4}L${x + 25},${y + 16}M${x + 13},${y + 16}L${x + 25},${y + 4}`, stroke: style.colour, "stroke-width": 2.6 }));
    } else if (e.kind === "dotted") {
      svg.append(node("circle", { cx: x + 19, cy: y + 10, r: 5, fill: style.colour }));
    } else {
      if (style.rim) svg.append(node("line", { x1: x, x2: x + 32, y1: y + 10, y2: y + 10, stroke: style.rim, "stroke-width": 4.4 }));
      if (e.kind !== "points") svg.append(node("line", { x1: x, x2: x + 32, y1: y + 10, y2: y + 10, stroke: style.colour, "stroke-width": 2.4, "stroke-dasharray": e.dash ?? style.dash }));
      if (e.head) svg.append(node("path", { d: `M${x + 25},${y + 5}L${x + 33},${y + 10}L${x + 25},${y + 15}`, fill: "none", stroke: style.rim ?? style.colour, "stroke-width": 2 }));
      if (["points", "line"].includes(e.kind) && !e.bare) svg.append(node("path", { d: marker(style.marker, x + 16, y + 10, 8), fill: e.ring ? "none" : style.colour, stroke: style.rim ?? style.colour, "stroke-width": e.ring ? 2 : style.rim ? 1 : 0 }));
    }
    svg.append(words(e.name, x + 38, y + 14, theme, { room: 220 }));
    x += w;
  }
  svg.setAttribute("width", width);
  svg.setAttribute("height", y + 22);
  svg.setAttribute("viewBox", `0 0 ${width} ${y + 22}`);
  return svg;
}

function colourBar(colours, width, theme) {
  const long = Math.min(260, 0.6 * width), svg = node("svg", { width, height: 34, viewBox: `0 0 ${width} 34`, "aria-hidden": "true" }), steps = 64;
  for (let i = 0; i < steps; i++) svg.append(node("rect", { x: 4 + (i * long) / steps, y: 2, width: long / steps + 0.6, height: 11, fill: css(rgb(colours.low + ((i + 0.5) / steps) * (colours.high - colours.low), colours)) }));
  const middle = (colours.low + colours.high) / 2, tidy = (v) => exact(Math.abs(v) < 1e-5 * (colours.high - colours.low) ? 0 : Number(v.toPrecision(3)));
  svg.append(words(tidy(colours.low), 4, 27, theme, { size: 11 }), words(tidy(colours.high), long + 4, 27, theme, { size: 11, anchor: "end" }));
  if (long > 150) svg.append(words(tidy(middle), long / 2 + 4, 27, theme, { size: 11, anchor: "middle" }));
  if (colours.label) svg.append(words(colours.label, long + 16, 13, theme, { size: 12, room: width - long - 18 }));
  return svg;
}

/**
 * Draw a picture into an element; gives `{update(spec, alt), select(target), snapshot(), close()}`.
 * `share`: pictures that stand below each other under the same controls.
 * `on.hover` and `on.select` get `{panel, key}` or null.
 */
export function mount(el, { spec, title = "", alt = "", share = 1 }, on = {}) {
  const host = html("div", "kd-picture"), grid = html("div", "kd-panels"), tip = html("div", "kd-tip"), voice = html("div", "kd-voice");
  host.setAttribute("role", "group");
  tip.hidden = true;
  voice.setAttribute("aria-live", "polite");
  host.append(grid, tip, voice);
  el.append(host);
  let drawn = [], selected = null, last = 0, closed = false, focus = null;

  const outline = (svg, item, strong, theme) => {
    const a = { fill: "none", stroke: theme.ink, "stroke-width": strong ? 3 : 2, "pointer-events": "none", class: strong ? "kd-chosen" : "kd-pointed" };
    const under = { ...a, stroke: theme.paper, "stroke-width": strong ? 6 : 5, opacity: 0.8 };
    for (const b of [under, a]) svg.append(item.r === undefined ? node("rect", { ...b, x: item.x, y: item.y, width: Math.max(1, item.w), height: Math.max(1, item.h) }) : node("circle", { ...b, cx: item.x, cy: item.y, r: item.r + 2 }));
  };

  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

  function find(panel, key) {
    const targets = drawn[panel]?.targets;
    if (!targets) return null;
    for (let k = 0; k < targets.count; k++) if (same(targets.at(k).key, key)) return targets.at(k);
    return null;
  }

  function showSelected() {
    host.querySelectorAll(".kd-chosen").forEach((n) => n.remove());
    if (!selected) return;
    const item = find(selected.panel, selected.key);
    if (item) outline(drawn[selected.panel].svg, item, true, themeOf(host));
  }

  function point(panel, k, x, y, spoken) {
    const { svg, targets } = drawn[panel];
    host.querySelectorAll(".kd-pointed").forEach((n) => n.remove());
    if (k < 0) { tip.hidden = true; on.hover?.(null); return; }
    const item = targets.at(k), detail = x !== null && targets.detail?.(x, y, k), lines = detail ? [...item.lines, detail] : item.lines;
    outline(svg, item, false, themeOf(host));
    tip.replaceChildren(...lines.map((t, i) => html("div", i ? "" : "kd-first", t)));
    tip.hidden = false;
    const at = svg.getBoundingClientRect(), base = host.getBoundingClientRect(), ax = (item.r === undefined ? item.x + item.w / 2 : item.x), ay = item.r === undefined ? item.y : item.y - item.r;
    const px = at.left - base.left + (x ?? ax), py = at.top - base.top + (y ?? ay);
    const w = tip.offsetWidth, h = tip.offsetHeight;
    tip.style.left = `${Math.max(0, Math.min(base.width - w, px + (px + w + 20 > base.width ? -w - 12 : 14)))}px`;
    tip.style.top = `${py - h - 10 < -20 ? py + 18 : py - h - 10}px`;
    if (spoken) voice.textContent = lines.join(", ");
    on.hover?.({ panel, key: item.key });
  }

  function choose(panel, k) {
    const target = k < 0 ? null : { panel, key: drawn[panel].targets.at(k).key };
    selected = target && selected && same(target, selected) ? null : target;
    showSelected();
    on.select?.(selected);
  }

  function listen(panel) {
    const { svg, targets } = drawn[panel];
    let k = -1;
    const local = (event) => { const r = svg.getBoundingClientRect(), w = svg.viewBox.baseVal.width; return [((event.clientX - r.left) * w) / r.width, ((event.clientY - r.top) * w) / r.width]; };
    svg.addEventListener("pointermove", (event) => { const [x, y] = local(event); k = targets.pick(x, y); point(panel, k, x, y, false); });
    svg.addEventListener("pointerleave", () => { k = -1; point(panel, -1); });
    svg.addEventListener("click", (event) => choose(panel, targets.pick(...local(event))));
    svg.addEventListener("keydown", (event) => {
      event.stopPropagation(); // the notebook takes the arrow keys otherwise
      if (!targets.count) return;
      if (KEYS.includes(event.key)) { event.preventDefault(); k = k < 0 ? 0 : targets.move(k, event.key); focus = { panel, k }; point(panel, k, null, null, true); }
      else if ((event.key === "Enter" || event.key === " ") && k >= 0) { event.preventDefault(); choose(panel, k); }
      else if (event.key === "Escape") { k = -1; point(panel, -1); }
    });
    svg.addEventListener("blur", () => { k = -1; if (!closed) point(panel, -1); });
    svg.kdResume = (n) => { k = Math.min(n, targets.count - 1); if (k >= 0) point(panel, k, null, null, true); };
  }

  function draw() {
    const width = Math.min(WIDEST, el.clientWidth || 760), theme = themeOf(host);
    const active = drawn.findIndex((d) => d.svg && d.svg === document.activeElement), resume = active >= 0 && focus?.panel === active ? focus.k : -1;
    host.style.setProperty("width", `${width}px`);
    if (spec.version !== VERSION) { grid.replaceChildren(html("p", "", `This picture has version ${spec.version}; this page draws version ${VERSION}.`)); return; }
    const panels = width < NARROW ? spec.panels.filter((p) => p.kind !== "blank") : spec.panels, columns = width < NARROW ? 1 : Math.min(spec.columns, panels.length), shares = columns === spec.columns ? spec.widths : Array(columns).fill(1), sum = shares.slice(0, columns).reduce((a, b) => a + b, 0);
    const rooms = shares.slice(0, columns).map((s) => ((width - GAP * (columns - 1)) * s) / sum);
    const rows = Math.ceil(panels.length / columns), room = Math.max(400, Math.min(560, innerHeight - 290)); // under a few controls, on this screen
    const tallest = share > 1 ? Math.max(150, room / share - 60) : rows > 1 ? Math.max(115, (room - 60) / rows - 60) : room - 130; // without titles, names and colour bar
    drawn = panels.map((p, i) => ({ ...(p.kind === "table" ? drawTable(p, title) : p.kind === "blank" ? { element: html("div") } : PANELS[p.kind](p, rooms[i % columns], theme, tallest)) }));
    const bars = drawn.map((d, i) => d.colours ?? panels[i].marks?.find((m) => m.kind === "field")?.colours ?? (panels[i].marks?.some((m) => m.values && m.kind === "points") ? panels[i].colours : null));
    const kinds = [...new Set(bars.filter(Boolean).map((c) => JSON.stringify(c)))], shared = kinds.length === 1;
    const cells = drawn.map((d, i) => {
      const cell = html("div", "kd-panel");
      cell.append(d.svg ?? d.element);
      if (d.svg) {
        d.svg.setAttribute("role", "img");
        d.svg.setAttribute("tabindex", "0");
        d.svg.setAttribute("focusable", "true");
        const part = panels[i].title || (drawn.length > 1 ? `${title}, part ${i + 1} of ${drawn.length}` : title);
        d.svg.setAttribute("aria-label", drawn.length === 1 || i === 0 ? `${part}. ${alt}` : part);
      }
      if (bars[i] && !shared) cell.append(colourBar(bars[i], rooms[i % columns], theme));
      return cell;
    });
    grid.style.gridTemplateColumns = rooms.map((r) => `${r}px`).join(" ");
    const keys = legend(legendEntries(panels, drawn), width, theme), foot = shared ? colourBar(JSON.parse(kinds[0]), width, theme) : null;
    grid.replaceChildren(...cells);
    host.querySelectorAll(".kd-keys, .kd-foot").forEach((n) => n.remove());
    if (keys) { keys.classList.add("kd-keys"); host.prepend(keys); }
    if (foot) { foot.classList.add("kd-foot"); grid.after(foot); }
    drawn.forEach((d, i) => { if (d.svg) listen(i); });
    host.setAttribute("aria-label", title);
    tip.hidden = true;
    showSelected();
    if (active >= 0 && drawn[active]?.svg) { drawn[active].svg.focus({ preventScroll: true }); if (resume >= 0) drawn[active].svg.kdResume(resume); }
    last = width;
  }

  /** The picture as it stands, as a PNG address (without what is written in tables). */
  async function snapshot() {
    const base = host.getBoundingClientRect(), theme = themeOf(host), out = node("svg", { xmlns: "http://www.w3.org/2000/svg", width: base.width, height: base.height });
    if (!base.width || !base.height) return null;
    out.append(node("rect", { width: "100%", height: "100%", fill: theme.paper }));
    for (const svg of host.querySelectorAll("svg")) {
      const r = svg.getBoundingClientRect(), copy = svg.cloneNode(true);
      for (const n of copy.querySelectorAll(".kd-pointed")) n.remove();
      for (const [name, v] of [["x", r.left - base.left], ["y", r.top - base.top], ["width", r.width], ["height", r.height]]) copy.setAttribute(name, v);
      out.append(copy);
    }
    const image = new Image();
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(out))}`;
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [Math.ceil(base.width), Math.ceil(base.height)];
    canvas.getContext("2d").drawImage(image, 0, 0);
    return canvas.toDataURL("image/png");
  }

  const resized = new ResizeObserver(() => { if (el.clientWidth && Math.min(WIDEST, el.clientWidth) !== last) draw(); });
  resized.observe(el);
  const dark = matchMedia("(prefers-color-scheme: dark)"), restyled = new MutationObserver(() => draw());
  dark.addEventListener("change", draw);
  restyled.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name", "data-kd-theme"] });
  draw();
  return {
    update(next) { ({ spec, title = title, alt = alt, share = share } = next); draw(); },
    select(target) { selected = target && target.key !== undefined ? target : null; showSelected(); },
    snapshot,
    host,
    close() { closed = true; resized.disconnect(); restyled.disconnect(); dark.removeEventListener("change", draw); host.remove(); },
  };
}

/** Draw every picture whose data stands on the page (`figure.kd-view` with a `script.kd-data`), now and as they come. */
export function wake(root = document.body) {
  const one = (figure) => {
    const data = figure.querySelector(":scope > script.kd-data");
    if (!data || figure.classList.contains("kd-awake")) return;
    figure.classList.add("kd-awake");
    const place = html("div", "kd-drawn"), given = JSON.parse(data.textContent);
    if (given.spec.version !== VERSION) return; // of another time: its still picture stays
    data.after(place);
    try {
      mount(place, given);
      figure.querySelectorAll(":scope > img").forEach((i) => { i.hidden = true; });
    } catch (error) { // the still picture stays
      place.remove();
      console.error(error);
    }
  };
  root.querySelectorAll("figure.kd-view").forEach(one);
  return new MutationObserver((changes) => {
    for (const change of changes) for (const added of change.addedNodes) {
      if (added.nodeType === 1) { if (added.matches("figure.kd-view")) one(added); added.querySelectorAll?.("figure.kd-view").forEach(one); }
    }
  }).observe(root, { childList: true, subtree: true });
}
