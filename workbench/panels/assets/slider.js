// A labelled slider: range + number field, linear or logarithmic, whole or real numbers. Writes `value` while it moves.
const POSITIONS = 400, PACE = 50; // ms between two values that are sent while moving
const ROUND = [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10];

const tidy = (x) => Number(x.toPrecision(4));

/** The nearest round number by ratio: 1, 1.2, 1.5, 2, ... times a power of ten. */
function round(x) {
  const power = 10 ** Math.floor(Math.log10(x)), m = x / power;
  return tidy(ROUND.reduce((best, r) => (Math.abs(Math.log(r / m)) < Math.abs(Math.log(best / m)) ? r : best)) * power);
}

function scale(model) {
  const low = model.get("low"), high = model.get("high"), step = model.get("step"), log = model.get("log");
  const snap = (x) => {
    const held = Math.min(high, Math.max(low, x));
    if (log) {
      if (held <= low * 1.0001 || held >= high * 0.9999) return held <= low * 1.0001 ? low : high;
      const near = Math.min(high, Math.max(low, round(held)));
      return model.get("integer") ? Math.round(near) : near;
    }
    return tidy(Math.min(high, low + Math.round((held - low) / step) * step));
  };
  if (!log) return { min: low, max: high, step, to: (x) => x, from: snap };
  const ratio = Math.log(high / low);
  return { min: 0, max: POSITIONS, step: 4, to: (x) => (Math.log(x / low) / ratio) * POSITIONS,
           from: (p) => snap(low * Math.exp((p / POSITIONS) * ratio)) };
}

function render({ model, el }) {
  const id = `kd-slider-${Math.random().toString(36).slice(2)}`; // every widget loads its own copy of this module
  el.classList.add("kd-slider");
  const label = document.createElement("label");
  label.htmlFor = id;
  const range = document.createElement("input");
  range.type = "range";
  range.id = id;
  const field = document.createElement("input");
  field.type = "number";
  const help = document.createElement("span");
  help.className = "kd-help";
  help.id = `${id}-help`;
  el.append(label, range, field, help);

  const words = (value) => {
    range.setAttribute("aria-valuetext", String(tidy(value)));
    field.value = String(tidy(value));
  };
  const show = (value) => {
    range.value = scale(model).to(value);
    words(value);
  };
  const setup = () => {
    const s = scale(model);
    [range.min, range.max, range.step] = [s.min, s.max, model.get("log") ? "any" : s.step];
    [field.min, field.max, field.step] = [model.get("low"), model.get("high"), model.get("integer") ? 1 : "any"];
    label.textContent = model.get("description");
    field.setAttribute("aria-label", `${model.get("description")}, exact value`);
    help.textContent = model.get("help");
    range.setAttribute("aria-describedby", help.id);
    range.disabled = field.disabled = model.get("disabled");
    show(model.get("value"));
  };
  let sent = 0, later = 0, moving = false;
  const commit = (value) => {
    clearTimeout(later);
    later = 0;
    words(value);
    if (value === model.get("value")) return;
    sent = performance.now();
    model.set("value", value);
    model.save_changes();
  };
  const soon = () => { // the newest position wins, about 20 times a second
    moving = true;
    const value = scale(model).from(Number(range.value)), wait = PACE - (performance.now() - sent);
    words(value);
    if (wait <= 0) commit(value);
    else if (!later) later = setTimeout(() => commit(scale(model).from(Number(range.value))), wait);
  };
  const stop = (event) => event.stopPropagation(); // the notebook swallows arrow keys otherwise
  range.addEventListener("keydown", (event) => {
    stop(event);
    const s = scale(model), big = (s.max - s.min) / 10;
    const move = { ArrowRight: s.step, ArrowUp: s.step, ArrowLeft: -s.step, ArrowDown: -s.step, PageUp: big, PageDown: -big }[event.key];
    const end = { Home: s.min, End: s.max }[event.key];
    if (move === undefined && end === undefined) return;
    event.preventDefault();
    let target = end ?? s.to(model.get("value")) + move;
    let value = s.from(Math.min(s.max, Math.max(s.min, target)));
    while (value === model.get("value") && move && target > s.min && target < s.max) value = s.from((target += move));
    range.value = s.to(value);
    commit(value);
  });
  field.addEventListener("keydown", stop);
  range.addEventListener("input", soon);
  range.addEventListener("change", () => { moving = false; const value = scale(model).from(Number(range.value)); range.value = scale(model).to(value); commit(value); });
  field.addEventListener("change", () => {
    const typed = Number(field.value);
    const value = Math.min(model.get("high"), Math.max(model.get("low"), typed));
    commit(field.value === "" || Number.isNaN(typed) ? model.get("value") : model.get("integer") ? Math.round(value) : value);
    show(model.get("value"));
  });
  const changed = () => { if (!moving) show(model.get("value")); };
  model.on("change:value", changed);
  const rebuilt = ["low", "high", "step", "log", "description", "help", "disabled"].map((n) => `change:${n}`).join(" ");
  model.on(rebuilt, setup);
  setup();
  return () => {
    clearTimeout(later);
    model.off("change:value", changed);
    model.off(rebuilt, setup);
  };
}

export default { render };
