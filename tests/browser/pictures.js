// What is wrong with each picture of a page: parts that leave it, words that lie on others, attributes without a value.
() => [...document.querySelectorAll("figure.kd-view .kd-picture")].map((host) => {
  const frame = host.getBoundingClientRect(), wrong = [];
  const clipped = (e) => e.tagName !== "text" && e.closest("[clip-path]"); // words that are clipped are cut
  for (const e of host.querySelectorAll("svg text, svg rect, svg circle, svg path, svg image")) {
    const r = e.getBoundingClientRect();
    if (!r.width || e.closest("pattern, clipPath") || clipped(e)) continue;
    if (r.right > frame.right + 2 || r.left < frame.left - 3) {
      const at = [r.left - frame.left, r.right - frame.left].map(Math.round);
      wrong.push(`${e.tagName} ${e.textContent.slice(0, 30)} at ${at} of ${frame.width}`);
    }
  }
  for (const svg of host.querySelectorAll("svg")) {
    const texts = [...svg.querySelectorAll("text:not([transform])")].filter((t) => t.textContent.trim());
    const boxes = texts.map((t) => t.getBoundingClientRect()), said = texts.map((t) => t.firstChild.textContent);
    boxes.forEach((a, i) => boxes.slice(0, i).forEach((b, j) => {
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 3 && high > 5) wrong.push(`${said[j]} lies on ${said[i]}`);
    }));
  }
  for (const a of [...host.querySelectorAll("svg *")].flatMap((e) => [...e.attributes])) {
    if (a.name !== "href" && /NaN|undefined|Infinity|\[object/.test(a.value)) wrong.push(`${a.name}="${a.value}"`);
  }
  return wrong.slice(0, 4);
})
