// Shows HTML made by Python. Keeps folded tables as the reader left them, and its height while a new picture arrives.
function render({ model, el }) {
  el.classList.add("kd-viewbox");
  const draw = () => {
    const open = [...el.querySelectorAll(".kd-view details")].map((d) => d.open);
    el.style.minHeight = `${el.offsetHeight}px`;
    el.innerHTML = model.get("html");
    [...el.querySelectorAll(".kd-view details")].forEach((d, i) => { d.open = open[i] ?? false; });
    Promise.all([...el.querySelectorAll("img")].map((i) => i.decode().catch(() => undefined))).then(() => { el.style.minHeight = ""; });
  };
  const busy = () => el.setAttribute("aria-busy", String(model.get("busy")));
  model.on("change:html", draw);
  model.on("change:busy", busy);
  draw();
  busy();
  return () => { model.off("change:html", draw); model.off("change:busy", busy); };
}

export default { render };
