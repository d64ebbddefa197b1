// Messages: look for some, the newest first.

import { get } from "../api.js";
import { Block, filters, loading } from "../blocks.js";
import { add, button, fill, h } from "../dom.js";
import { exactTime, instant, number, time, words } from "../format.js";
import { organisationField, pathOf } from "../organisation_choice.js";
import { messageTone } from "../statuses.js";
import { Table } from "../tables.js";

const STATUSES = ["scheduled", "accepted", "sent", "outcome_unknown", "canceled", "expired", "failed", "undelivered", "delivered"];
const LIMIT = 50;

export async function open(view, context) {
  const { query, session, remember, goTo } = context;
  const wait = loading();
  add(view, [wait]);
  const own = await organisationField(context);
  wait.remove();
  const result = h("div");
  const from = (name) => query.get(name) ?? "";
  const form = filters([
    ...own,
    { name: "id", label: "Message id", value: "", size: 20 },
    { name: "to", label: "Recipient", type: "tel", value: from("to"), size: 16 },
    { name: "reference", label: "Reference", value: from("reference"), maxlength: 200, size: 14 },
    { name: "status", label: "Status", options: [["", "any"], ...STATUSES.map((one) => [one, words(one)])], value: from("status") },
    { name: "queue", label: "Queue", options: [["", "any"], ["express", "express"], ["normal", "normal"]], value: from("queue") },
    { name: "since", label: "Accepted since", type: "datetime-local", value: from("since") },
    { name: "until", label: "Accepted before", type: "datetime-local", value: from("until") },
  ], (values) => {
    if (values.id) {
      goTo(messageHref(values.id, values.organisation));
      return;
    }
    remember({ ...values, id: "" });
    show(values);
  }, "Search");
  const show = (values) => {
    const list = listBlock(values, context);
    fill(result, list.element);
    list.load();
  };
  add(view, [form, result]);
  const organisation = own[0]?.value ?? "";
  if (session.kind === "admin" && !organisation) {
    fill(result, h("p", { class: "quiet-line" }, "There is no organisation yet."));
    return;
  }
  show({ organisation, ...Object.fromEntries(["to", "reference", "status", "queue", "since", "until"].map((name) => [name, from(name)])) });
}

function messageHref(id, organisation) {
  return `/console/message?id=${encodeURIComponent(id)}${organisation ? `&organisation=${encodeURIComponent(organisation)}` : ""}`;
}

function listBlock(values, { session, signal }) {
  const path = `${pathOf(session, values.organisation)}/messages`;
  const { to, reference, status, queue } = values;
  const wanted = { to, reference, status, queue, since: instant(values.since), until: instant(values.until), limit: LIMIT };
  const found = [];
  let cursor = "";
  const table = new Table({
    caption: "Messages, newest first", key: (row) => row.id, emptyText: "No message is like that.",
    columns: [
      { title: "Accepted at", cell: (row) => ({ text: time(row.accepted_at), href: messageHref(row.id, values.organisation) }) },
      { title: "Status", cell: (row) => ({ text: words(row.status), tone: messageTone(row.status) }) },
      { title: "To", cell: (row) => row.to },
      { title: "From", cell: (row) => row.from, dir: "auto" },
      { title: "Queue", cell: (row) => row.queue },
      { title: "Segments", number: true, cell: (row) => number(row.segments) },
      { title: "Units", number: true, cell: (row) => number(row.units) },
      { title: "Charge", cell: (row) => row.charge },
      { title: "Provider", cell: (row) => row.provider },
      { title: "Attempts", number: true, cell: (row) => number(row.attempts) },
      { title: "Reference", cell: (row) => row.reference, dir: "auto" },
    ],
  });
  const more = h("div", { class: "more" }, button("Older messages", () => block.load()));
  const block = new Block({ signal, load: () => get(path, { ...wanted, cursor }, { signal }), draw: (page) => {
    found.push(...page.messages);
    cursor = page.next ?? "";
    more.hidden = page.next === null;
    return [table.update(found).element, more,
      h("p", { class: "small more" }, `What was recorded before ${exactTime(page.as_of)} is in the list.`)];
  } });
  return block;
}
