// Changes: what operators have changed, and who.

import { get } from "../api.js";
import { Block } from "../blocks.js";
import { add, button, h } from "../dom.js";
import { json, time } from "../format.js";
import { Table } from "../tables.js";

const TONES = { done: "good", begun: "quiet", refused: "warn", unknown: "bad" };

export function open(view, { signal }) {
  const found = [];
  let cursor = null;
  const table = new Table({
    caption: "Changes, newest first", key: (row) => String(row.id), emptyText: "Nothing was changed yet.",
    columns: [
      { title: "At", cell: (row) => time(row.at) },
      { title: "Key", cell: (row) => row.key, dir: "auto" },
      { title: "Call", cell: (row) => `${row.action.split(" ")[0]} ${row.path}`, code: true, wide: true },
      { title: "Before", cell: (row) => written(row.before), wide: true, code: true, dir: "auto" },
      { title: "After", cell: (row) => written(row.after), wide: true, code: true, dir: "auto" },
      { title: "Outcome", cell: (row) => ({ text: row.outcome, tone: TONES[row.outcome] }) },
      { title: "Address", cell: (row) => row.address },
    ],
  });
  const more = h("div", { class: "more" }, button("Older changes", () => block.load()));
  const block = new Block({ signal, load: () => get("/admin/changes", { limit: 50, cursor }, { signal }), draw: (page) => {
    found.push(...page.changes);
    cursor = page.next;
    more.hidden = page.next === null;
    return [table.update(found).element, more];
  } });
  add(view, [block.element]);
  block.load();
}

function written(value) {
  if (value === null || value === undefined) return "";
  return typeof value === "string" ? value : Object.entries(value).map(([name, one]) => `${name} ${json(one)}`).join(", ");
}
