// root => {problems, checked}: every control named, every picture described, ids unique, descriptions present.
(root) => {
  const labels = (e) => [...(e.labels ?? [])].map((l) => l.innerText).join(" ").trim();
  const name = (e) => e.getAttribute("aria-label") || labels(e) || (e.tagName === "BUTTON" && e.innerText.trim()) || e.getAttribute("title");
  const problems = [];
  const complain = (what, e) => problems.push(`${what}: ${e.outerHTML.slice(0, 120)}`);
  const each = (selector, check) => [...root.querySelectorAll(selector)].forEach(check);
  each("input, select, button, textarea, progress, [role=slider]", (e) => { if (!name(e)) complain("no accessible name", e); });
  each("img", (e) => { if (!(e.getAttribute("alt") ?? "").trim()) complain("no alt", e); });
  each("svg", (e) => {
    const named = e.getAttribute("role") === "img" && e.getAttribute("aria-label");
    if (e.getAttribute("aria-hidden") !== "true" && !named) complain("unnamed drawing", e);
  });
  each("[id]", (e) => { if (document.querySelectorAll(`#${CSS.escape(e.id)}`).length > 1) complain("id twice", e); });
  each("[aria-describedby]", (e) => { if (!document.getElementById(e.getAttribute("aria-describedby"))) complain("description missing", e); });
  return { problems, checked: root.querySelectorAll("input, select, button, progress, img, svg").length };
}
