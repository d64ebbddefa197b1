// Organisations: the list, page by page.

import { get } from "../api.js";
import { Block } from "../blocks.js";
import { add, button, h } from "../dom.js";
import { number, time } from "../format.js";
import { Table } from "../tables.js";

const LIMIT = 100;

export function open(view, { signal }) {
  const found = [];
  let next = 0;
  const table = new Table({
    caption: "Organisations", key: (row) => String(row.id), emptyText: "There is no organisation yet.",
    columns: [
      { title: "Organisation", dir: "auto", wide: true, cell: (row) => ({ text: row.name, href: `/console/organisation?id=${row.id}` }) },
      { title: "Id", number: true, cell: (row) => String(row.id) },
      { title: "State", cell: organisationState },
      { title: "Weight", number: true, cell: (row) => row.limits.weight ?? "1" },
      { title: "Most that wait", number: true, cell: (row) => row.limits.backlog_max === null ? "as for all" : number(row.limits.backlog_max) },
      { title: "Most a second", number: true, cell: (row) => row.limits.rate_max === null ? "no limit" : String(row.limits.rate_max) },
      { title: "Low balance below", number: true, cell: (row) => row.low_balance === null ? "never" : number(row.low_balance) },
      { title: "Since", cell: (row) => time(row.created_at) },
    ],
  });
  const more = h("div", { class: "more" }, button("More organisations", () => block.load()));
  const block = new Block({ signal, load: () => get("/admin/organisations", { after: next, limit: LIMIT }, { signal }), draw: (page) => {
    found.push(...page.organisations);
    next = page.next;
    more.hidden = next === null;
    return [table.update(found).element, more];
  } });
  add(view, [block.element]);
  block.load();
}

/** Whether it sends, as a state. */
export function organisationState(row) {
  if (row.suspended) return { text: "suspended", tone: "bad" };
  if (row.paused) return { text: "paused", tone: "warn" };
  return { text: "sending", tone: "good" };
}
