// The pictures of a panel, fed by a kernel: drawn anew as the kernel sends data, told to it what is pointed at and chosen.
import { html } from "./base.js";
import { mount, wake } from "./picture.js";

const PATIENCE = 250, REST = 900; // ms until "computing" is said, and until a picture at rest is kept

function render({ model, el }) {
  window.kdAwake ??= wake(document.body); // pictures of other outputs, which have their data beside them
  el.classList.add("kd-box");
  const state = html("div", "kd-state"), said = html("div", "kd-said"), list = html("div");
  state.setAttribute("role", "status");
  el.append(state, said, list);
  let shown = [], hovering = null, resting = 0, waiting = 0;

  const send = (name, value) => { model.set(name, value); model.save_changes(); };
  const chosen = (view, target) => target && { view, ...target };

  function figure(view, index) {
    const made = html("figure", "kd-view kd-awake"), place = html("div", "kd-drawn"), caption = html("figcaption"), heading = html("b"), text = html("span"), more = html("details"), sheet = html("div", "kd-table");
    more.append(html("summary"), sheet);
    caption.append(heading, " ", text, more);
    made.append(place, caption);
    list.append(made);
    const entry = { place, picture: null, still: null, made };
    more.addEventListener("toggle", () => { if (more.open) model.send({ type: "table", view: index }); });
    entry.show = (next) => {
      heading.textContent = /[.?!]$/.test(next.title) ? next.title : `${next.title}.`;
      text.textContent = next.alt;
      more.hidden = !next.rows;
      more.firstChild.textContent = `table: ${next.title}`;
      if (more.open) model.send({ type: "table", view: index });
      if (next.spec) {
        entry.still?.remove();
        entry.still = null;
        if (entry.picture) entry.picture.update(next);
        else entry.picture = mount(place, next, {
          hover: (target) => { clearTimeout(hovering); hovering = setTimeout(() => send("hovered", chosen(index, target) ?? {}), 60); },
          select: (target) => send("selected", chosen(index, target) ?? {}),
        });
      } else {
        entry.picture?.close();
        entry.picture = null;
        entry.still ??= place.appendChild(html("div"));
        entry.still.innerHTML = next.html; // made by kdcore.html, which escapes what goes into it
      }
    };
    entry.table = (content) => { sheet.innerHTML = content; };
    return entry;
  }

  function draw() {
    const views = model.get("views");
    el.style.minHeight = `${list.offsetHeight}px`;
    while (shown.length > views.length) { const gone = shown.pop(); gone.picture?.close(); gone.made.remove(); }
    views.forEach((view, i) => { (shown[i] ??= figure(view, i)).show({ ...view, share: views.length }); });
    el.style.minHeight = "";
    showSelected();
    clearTimeout(resting);
    resting = setTimeout(keep, REST);
  }

  async function keep() {
    if (!model.get("keeps") || document.hidden || !el.isConnected) return;
    const stills = await Promise.all(shown.map((s) => s.picture?.snapshot() ?? null));
    send("stills", stills);
  }

  const showSelected = () => { const s = model.get("selected"); shown.forEach((entry, i) => entry.picture?.select(s.view === i ? s : null)); };
  const busy = () => {
    clearTimeout(waiting);
    const now = model.get("busy");
    el.setAttribute("aria-busy", String(now));
    state.textContent = model.get("message");
    if (now) waiting = setTimeout(() => { state.textContent = model.get("message") || "computing …"; el.classList.add("kd-waiting"); }, PATIENCE);
    else el.classList.remove("kd-waiting");
  };
  const answer = (message) => { if (message.type === "table") shown[message.view]?.table(message.html); };
  const error = () => { said.innerHTML = model.get("error"); };

  model.on("change:views", draw);
  model.on("change:selected", showSelected);
  model.on("change:busy change:message", busy);
  model.on("change:error", error);
  model.on("msg:custom", answer);
  draw();
  busy();
  error();
  return () => {
    clearTimeout(resting); clearTimeout(waiting); clearTimeout(hovering);
    model.off("change:views", draw); model.off("change:selected", showSelected); model.off("change:busy change:message", busy); model.off("change:error", error); model.off("msg:custom", answer);
    shown.forEach((s) => s.picture?.close());
  };
}

export default { render };
