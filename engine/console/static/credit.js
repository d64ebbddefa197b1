// The credit of one organisation: its balance, top-ups, adjustments, and the journal.

import { get, post } from "./api.js";
import { Block, facts } from "./blocks.js";
import { ask } from "./dialogs.js";
import { button, h } from "./dom.js";
import { count, number, time } from "./format.js";
import { Table } from "./tables.js";

/** Blocks `balance` and `journal`, and `load` for both. `path`: of the organisation in the admin calls. */
export function creditBlock(path, { signal, may, session }, paths = {}) {
  const at = { balance: `${path}/balance`, journal: `${path}/transactions`, ...paths };
  const rows = [];
  let next = null;
  const load = () => {
    rows.length = 0;
    next = null;
    balance.load();
    journal.load();
  };
  const canPay = session.kind === "admin" && may("money");
  const balance = new Block({ signal, load: () => get(at.balance, {}, { signal }), draw: (one) => [
    facts([
      ["Available", h("span", {}, count(one.available, "unit"))],
      ["Held", count(one.held, "unit")],
      ["Posted", count(one.posted, "unit")],
    ]),
    canPay && h("p", { class: "buttons more" },
      button("Top up", () => topUp(path, load)), button("Adjust", () => adjust(path, load))),
  ] });
  const table = journalTable();
  const more = h("div", { class: "more" }, button("Older entries", () => journal.load()));
  const journal = new Block({ signal, load: () => get(at.journal, { limit: 50, cursor: next }, { signal }), draw: (page) => {
    rows.push(...page.transactions);
    next = page.next;
    more.hidden = next === null;
    return [table.update(rows).element, more];
  } });
  return { balance, journal, load };
}

function journalTable() {
  return new Table({
    caption: "Journal, newest first", key: (row) => String(row.id), emptyText: "Nothing has moved its credit yet.",
    columns: [
      { title: "At", cell: (row) => time(row.at) },
      { title: "Type", cell: (row) => row.type },
      { title: "Units", number: true, cell: (row) => number(row.units) },
      { title: "Reference", cell: (row) => row.reference ?? "", dir: "auto" },
      { title: "Reason", cell: (row) => row.reason ?? "", wide: true, dir: "auto" },
    ],
  });
}

const reference = { name: "reference", label: "Reference", required: true, maxlength: 200, hint: "The same reference never counts twice." };

function topUp(path, changed) {
  ask({
    title: "Top up", label: "Top up", text: "Units that were paid in.",
    fields: [{ name: "units", label: "Units", type: "number", min: 1, step: 1, required: true }, reference],
    act: async (values, once) => {
      const made = await post(`${path}/top-ups`, { units: Number(values.units), reference: values.reference }, once);
      changed();
      return `${count(made.units, "unit")} added; ${number(made.balance.available)} are available.`;
    },
  });
}

function adjust(path, changed) {
  ask({
    title: "Adjust the credit", label: "Adjust", danger: true, text: "Give units, or take some with a number below 0.",
    fields: [
      { name: "units", label: "Units", type: "number", step: 1, required: true }, reference,
      { name: "reason", label: "Reason", required: true, maxlength: 200 },
    ],
    act: async (values, once) => {
      const made = await post(`${path}/adjustments`, { ...values, units: Number(values.units) }, once);
      changed();
      return `Adjusted by ${count(made.units, "unit")}; ${number(made.balance.available)} are available.`;
    },
  });
}
