// Webhooks: endpoints, and deliveries that wait or have failed, with replay.

import { get, post } from "../api.js";
import { Block, filters, loading, section } from "../blocks.js";
import { ask, tell } from "../dialogs.js";
import { add, button, fill, h } from "../dom.js";
import { count, number, time, words } from "../format.js";
import { organisationField, pathOf } from "../organisation_choice.js";
import { Table } from "../tables.js";

const LIMIT = 50;
// What a list of deliveries says that has none, by the state that is asked for.
const NONE = { any: "Nothing waits, and nothing has failed.", failed: "Nothing has failed.", waiting: "Nothing waits." };

export async function open(view, context) {
  const { query, session, remember } = context;
  const wait = loading();
  add(view, [wait]);
  const own = await organisationField(context);
  wait.remove();
  const result = h("div");
  const show = (values) => {
    const path = pathOf(session, values.organisation);
    const changes = session.kind === "admin" ? context.may("operate") : context.may("send") && context.may("read");
    const list = deliveries(path, values.state, changes, context);
    const endpoints = endpointsBlock(path, changes, values.organisation, context, (count) => list.know(count));
    fill(result, section("Deliveries", list.block.element), section("Endpoints", endpoints.element));
    list.block.load();
    endpoints.load();
  };
  const values = { organisation: own[0]?.value ?? "", state: query.get("state") ?? "any" };
  const states = [["any", "waiting or failed"], ["failed", "failed"], ["waiting", "waiting"]];
  const form = filters([...own, { name: "state", label: "State", options: states, value: values.state }], (wanted) => {
    remember(wanted);
    show(wanted);
  });
  add(view, [form, result]);
  if (session.kind === "admin" && !values.organisation) {
    fill(result, h("p", { class: "quiet-line" }, "There is no organisation yet."));
    return;
  }
  show(values);
}

function deliveries(path, state, changes, { signal }) {
  const found = [];
  let cursor = null;
  const again = () => {
    found.length = 0;
    cursor = null;
    block.load();
  };
  const columns = [
    { title: "Happened at", cell: (row) => time(row.event_at) },
    { title: "State", cell: (row) => ({ text: row.state, tone: row.state === "failed" ? "bad" : "warn" }) },
    { title: "Event", cell: (row) => row.type },
    { title: "To", cell: (row) => row.url, wide: true, code: true },
    { title: "Attempts", number: true, cell: (row) => number(row.attempts) },
    { title: "Last answer", cell: (row) => [row.last_status ?? "none", words(row.last_reason)].filter(Boolean).join(", ") },
    { title: "Next attempt", cell: (row) => row.next_attempt_at ? time(row.next_attempt_at) : row.failed_at ? `failed at ${time(row.failed_at)}` : "" },
  ];
  if (changes) columns.push({ title: "Controls", controls: (row) => [
    { label: "Replay", name: `delivery ${row.id}`, act: () => replay(path, row, again) }] });
  const table = new Table({ caption: "Deliveries that wait or have failed, newest first", columns, key: (row) => String(row.id),
    emptyText: NONE[state] });
  const more = h("div", { class: "more" }, button("Older deliveries", () => block.load()));
  const block = new Block({ signal, load: () => get(`${path}/webhook-deliveries`, { state, limit: LIMIT, cursor }, { signal }), draw: (page) => {
    found.push(...page.webhook_deliveries);
    cursor = page.next;
    more.hidden = page.next === null;
    return [
      changes && h("p", { class: "buttons" }, button("Replay all that failed since …", () => replaySince(path, again)), button("Load again", again)),
      table.update(found).element, more,
    ];
  } });
  // Without an endpoint nothing waits either, but for another reason.
  const know = (endpoints) => table.sayEmpty(endpoints ? NONE[state] : "No endpoint yet, so there is nothing to deliver.");
  return { block, know };
}

function replay(path, row, changed) {
  ask({
    title: "Replay this delivery?", label: "Replay", text: `${row.type} is sent to ${row.url} again, now.`,
    act: async (_, once) => {
      await post(`${path}/webhook-deliveries/${row.id}/replay`, {}, once);
      changed();
      return `Delivery ${row.id} is made again.`;
    },
  });
}

function replaySince(path, changed) {
  ask({
    title: "Replay deliveries", label: "Replay", text: "All that have failed since this time are made again, now.",
    fields: [{ name: "since", label: "Since", type: "datetime-local", required: true }],
    act: async (values, once) => {
      const made = await post(`${path}/webhook-deliveries/replay`, { since: new Date(values.since).toISOString() }, once);
      changed();
      return `${count(made.replayed, "delivery", "deliveries")} ${made.replayed === 1 ? "is" : "are"} made again.`;
    },
  });
}

/** `organisation`: its id, of an operator. `known` is told how many endpoints there are, each time that they are loaded;
 * the callback URLs of messages count as one. */
function endpointsBlock(path, changes, organisation, { session, signal }, known) {
  const columns = [
    { title: "Id", cell: (row) => String(row.id) },
    { title: "URL", code: true, wide: true, cell: (row) => row.url ?? "the callback URLs of messages" },
    { title: "Since", cell: (row) => time(row.created_at) },
    { title: "Former secret until", cell: (row) => row.previous_secret_until ? time(row.previous_secret_until) : "" },
  ];
  if (changes) columns.push({ title: "Controls", controls: (row) => [row.url && { label: "Test", name: `endpoint ${row.id}`, act: async () => {
    try {
      const made = await post(`${path}/webhook-endpoints/${row.id}/test`, {});
      tell(`The test event ${made.event_id} is on its way.`);
    } catch (problem) {
      tell(problem.message, "bad");
    }
  } }] });
  const table = new Table({ caption: "Endpoints", columns, key: (row) => String(row.id), emptyText: howToMake(session, organisation) });
  const block = new Block({ signal, load: () => get(`${path}/webhook-endpoints`, {}, { signal }),
    draw: (found) => {
      known(found.webhook_endpoints.length);
      return table.update(found.webhook_endpoints).element;
    } });
  return block;
}

function howToMake(session, organisation) {
  const call = 'POST /v1/webhook-endpoints with {"url": "https://example.com/hook"}';
  if (session.kind === "organisation") return `No endpoint yet. To make one, call ${call}.`;
  return `No endpoint yet. To make one, run smsengine webhook add ${organisation} https://example.com/hook; the organisation itself calls ${call}.`;
}
