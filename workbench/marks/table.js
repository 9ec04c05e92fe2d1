// Rows and columns to sort.
import { exact, html } from "./base.js";

const MOST = 400;

export function drawTable(panel, caption) {
  const heads = Object.keys(panel.columns), count = panel.columns[heads[0]].length, cell = (h, i) => panel.columns[h][i];
  const number = Object.fromEntries(heads.map((h) => [h, panel.columns[h].every((v) => v === null || typeof v === "number")]));
  const box = html("div", "kd-sheet"), table = html("table"), top = html("tr"), head = html("thead"), body = html("tbody");
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", panel.title || caption);
  let by = null, down = false;
  const fill = () => {
    const order = [...Array(count).keys()];
    if (by !== null) order.sort((a, b) => { const [p, q] = [cell(by, a), cell(by, b)]; const d = p === null ? 1 : q === null ? -1 : number[by] ? p - q : String(p).localeCompare(String(q)); return down && p !== null && q !== null ? -d : d; });
    body.replaceChildren(...order.slice(0, MOST).map((i) => {
      const row = html("tr");
      heads.forEach((h, k) => {
        const v = cell(h, i), made = html(k ? "td" : "th", number[h] ? "kd-number" : "", v === null ? "–" : typeof v === "number" ? exact(v) : String(v));
        if (!k) made.scope = "row";
        if (panel.bars.includes(h) && typeof v === "number") made.style.background = `linear-gradient(90deg, #56B4E966 ${100 * Math.min(1, Math.max(0, v))}%, transparent 0)`;
        row.append(made);
      });
      return row;
    }));
  };
  for (const h of heads) {
    const th = html("th", number[h] ? "kd-number" : ""), press = html("button", "", h);
    th.scope = "col";
    press.type = "button";
    press.addEventListener("click", () => {
      [by, down] = [h, by === h ? !down : number[h]];
      [...top.children].forEach((t) => t.removeAttribute("aria-sort"));
      th.setAttribute("aria-sort", down ? "descending" : "ascending");
      fill();
    });
    th.append(press);
    top.append(th);
  }
  fill();
  head.append(top);
  if (panel.title) table.append(html("caption", "", panel.title));
  table.append(head, body);
  box.append(table);
  if (count > MOST) box.append(html("p", "", `The first ${MOST} of ${count} rows in this order.`));
  return { element: box };
}
