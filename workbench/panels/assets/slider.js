// A labelled slider: range + number field, linear or logarithmic, whole or real numbers. Writes `value` when let go.
const POSITIONS = 400;

const tidy = (x) => Number(x.toPrecision(4));

function scale(model) {
  const low = model.get("low"), high = model.get("high"), step = model.get("step"), log = model.get("log");
  const snap = (x) => {
    const held = Math.min(high, Math.max(low, x));
    if (log) return model.get("integer") ? Math.round(held) : tidy(held);
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

  const show = (value) => {
    range.value = scale(model).to(value);
    range.setAttribute("aria-valuetext", String(tidy(value)));
    field.value = String(tidy(value));
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
  const commit = (value) => {
    show(value);
    if (value !== model.get("value")) {
      model.set("value", value);
      model.save_changes();
    }
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
    commit(value);
  });
  field.addEventListener("keydown", stop);
  range.addEventListener("input", () => show(scale(model).from(Number(range.value))));
  range.addEventListener("change", () => commit(scale(model).from(Number(range.value))));
  field.addEventListener("change", () => {
    const typed = Number(field.value);
    const value = Math.min(model.get("high"), Math.max(model.get("low"), typed));
    commit(field.value === "" || Number.isNaN(typed) ? model.get("value") : model.get("integer") ? Math.round(value) : value);
  });
  const changed = () => show(model.get("value"));
  model.on("change:value", changed);
  const rebuilt = ["low", "high", "step", "log", "description", "help", "disabled"].map((n) => `change:${n}`).join(" ");
  model.on(rebuilt, setup);
  setup();
  return () => {
    model.off("change:value", changed);
    model.off(rebuilt, setup);
  };
}

export default { render };
