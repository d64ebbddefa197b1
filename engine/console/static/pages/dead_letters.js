// Dead letters: messages that several workers died with. Replay or drop them.

import { get, post } from "../api.js";
import { Block, filters } from "../blocks.js";
import { ask } from "../dialogs.js";
import { add, button, fill, h } from "../dom.js";
import { count, number, time } from "../format.js";
import { Table } from "../tables.js";

const LIMIT = 100;

export function open(view, context) {
  const { query, remember } = context;
  const result = h("div");
  const show = (values) => {
    const list = listBlock(values, context);
    fill(result, list.element);
    list.load();
  };
  const values = { queue: query.get("queue") ?? "", organisation: query.get("organisation") ?? "" };
  const form = filters([
    { name: "queue", label: "Queue", options: [["", "any"], ["express", "express"], ["normal", "normal"]], value: values.queue },
    { name: "organisation", label: "Organisation id", type: "number", min: 1, value: values.organisation },
  ], (wanted) => {
    remember(wanted);
    show(wanted);
  });
  add(view, [form, result]);
  show(values);
}

function listBlock(values, { signal, may }) {
  const found = [];
  let cursor = "";
  const again = () => {
    found.length = 0;
    cursor = "";
    block.load();
  };
  const table = letterTable(may("operate") ? (row) => controlsOf(row, again) : null);
  const more = h("div", { class: "more" }, button("More dead letters", () => block.load()));
  const block = new Block({ signal, load: () => get("/admin/dead-letters", { ...values, cursor, limit: LIMIT }, { signal }), draw: (page) => {
    found.push(...page.dead_letters);
    cursor = page.next ?? "";
    more.hidden = page.next === null;
    return [table.update(found).element, more];
  } });
  return block;
}

function letterTable(controls) {
  const columns = [
    { title: "Set aside at", cell: (row) => time(row.dead_at) },
    { title: "Queue", cell: (row) => row.queue },
    { title: "Message", code: true, cell: (row) => row.message_id
      ? { text: row.message_id, href: `/console/message?id=${encodeURIComponent(row.message_id)}&organisation=${row.organisation_id}` }
      : "written by another version" },
    { title: "Organisation", cell: (row) => row.organisation_id
      ? { text: String(row.organisation_id), href: `/console/organisation?id=${row.organisation_id}` } : "" },
    { title: "To", cell: (row) => row.to },
    { title: "Units", number: true, cell: (row) => number(row.units) },
    { title: "Attempts", number: true, cell: (row) => number(row.attempts) },
    { title: "Expires at", cell: (row) => row.expired ? { text: "expired", tone: "warn" } : time(row.expires_at) },
    { title: "Reference", cell: (row) => row.reference, dir: "auto" },
  ];
  if (controls) columns.push({ title: "Controls", controls });
  return new Table({ caption: "Dead letters, the oldest first", columns, key: (row) => row.id,
    emptyText: "There are no dead letters." });
}

function controlsOf(row, changed) {
  if (!row.readable) return [];
  const path = `/admin/dead-letters/${encodeURIComponent(row.id)}`;
  return [
    !row.expired && { label: "Replay", name: row.message_id, act: () => ask({
      title: "Replay this dead letter?", label: "Replay", danger: true,
      text: "It is put into its queue again. The recipient may get the message twice; it is charged once.",
      act: async (_, once) => {
        await post(`${path}/replay`, {}, once);
        changed();
        return `Message ${row.message_id} is in the ${row.queue} queue again.`;
      } }) },
    { label: "Drop", name: row.message_id, danger: true, act: () => ask({
      title: "Drop this dead letter?", label: "Drop", danger: true,
      text: `The message has failed for good, and its ${count(row.units, "unit")} are released.`,
      act: async (_, once) => {
        await post(`${path}/drop`, {}, once);
        changed();
        return `Message ${row.message_id} is given up; ${count(row.units, "unit")} are released.`;
      } }) },
  ];
}
