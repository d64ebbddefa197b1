// Queues: what is in each, who waits, and pause, resume, drain and scale.

import { get, post } from "../api.js";
import { Block, facts, section } from "../blocks.js";
import { ask } from "../dialogs.js";
import { add, button, fill, h, state } from "../dom.js";
import { count, number, percent, rate, short, span, time } from "../format.js";
import { processesOf } from "../statuses.js";
import { Table } from "../tables.js";

const QUEUES = ["express", "normal"];
// The backlogs by organisation are asked for so often, milliseconds.
const AGAIN_MS = 5_000;

export function open(view, context) {
  const { live, signal } = context;
  const parts = QUEUES.map((queue) => queuePart(queue, context));
  add(view, parts.map((part) => part.element));
  live.follow(() => live.status && parts.forEach((part) => part.update(live.status)), signal);
}

function queuePart(queue, context) {
  const { signal, may } = context;
  const place = h("div");
  const controls = h("div", { class: "buttons" });
  const title = queue === "express" ? "Express queue" : "Normal queue";
  const table = backlogTable(queue);
  const block = new Block({ signal, load: () => get(`/admin/queues/${queue}`, {}, { signal }), draw: (found) => {
    table.update(found.organisations);
    return table.element;
  } });
  block.load();
  const timer = setInterval(() => document.hidden || block.load(), AGAIN_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
  let sign = "";
  return {
    element: section(title, place, controls, h("h3", {}, "Who waits"), block.element),
    update: (status) => {
      fill(place, shownFacts(queue, status));
      const paused = Boolean(status.paused_queues?.[queue]);
      const drained = Boolean(status.drained_queues?.[queue]);
      if (!may("operate") || sign === `${paused} ${drained}`) return;
      sign = `${paused} ${drained}`;
      fill(controls, controlsOf(queue, paused, drained, context));
    },
  };
}

function shownFacts(queue, status) {
  const state_ = status.queues?.[queue];
  const flow = status.flow?.queues?.[queue];
  const workers = processesOf(status).filter((one) => one.role === queue);
  return facts([
    ["State", stateOf(queue, status)],
    ["Workers", `${workers.filter((one) => one.state === "ready").length} of ${workers.length} ready`],
    ["Accepted", `${rate(flow?.in_per_s)}/s`],
    ["Sent", `${rate(flow?.out_per_s)}/s`],
    ["Waiting", number(state_?.waiting)],
    ["Waiting, of paused organisations", number(state_?.paused)],
    ["In hand", number(state_?.in_hand)],
    ["Due", number(state_?.due)],
    ["Oldest", span(state_?.oldest_ms)],
    ["Dead letters", state_?.dead ? h("a", { href: `/console/dead-letters?queue=${queue}` }, number(state_.dead)) : number(state_?.dead)],
    ["p50, p99", `${span(flow?.p50_ms)}, ${span(flow?.p99_ms)}`],
  ]);
}

function stateOf(queue, status) {
  const pause = status.paused_queues?.[queue];
  const drain = status.drained_queues?.[queue];
  const since = (one) => `since ${time(one.since)}${one.reason ? `: ${one.reason}` : ""}`;
  if (pause) return h("span", {}, state("paused", "warn"), ` ${since(pause)}`);
  if (drain) return h("span", {}, state("drained", "warn"), ` ${since(drain)}`);
  if (!status.paused_queues || !status.drained_queues) return state("not known", "quiet");
  return state("running", "good");
}

const reason = { name: "reason", label: "Reason, for those who look later", maxlength: 200 };

function controlsOf(queue, paused, drained, context) {
  const found = [];
  const call = (action, done) => async (values, once) => {
    await post(`/admin/queues/${queue}/${action}`, values.reason ? { reason: values.reason } : {}, once);
    return done;
  };
  if (paused || drained) {
    found.push(button("Resume", () => ask({
      title: `Resume the ${queue} queue?`, label: "Resume",
      text: "It takes new messages, and those that wait are sent.",
      act: call("resume", `The ${queue} queue goes on.`),
    }), { label: `Resume the ${queue} queue` }));
  }
  if (!paused) {
    found.push(button("Pause", () => ask({
      title: `Pause the ${queue} queue?`, label: "Pause", danger: true, fields: [reason],
      text: "Nothing of it is sent any more. Its messages are accepted and wait.",
      act: call("pause", `The ${queue} queue is paused.`),
    }), { danger: true, label: `Pause the ${queue} queue` }));
  }
  if (!paused && !drained) {
    found.push(button("Drain", () => ask({
      title: `Drain the ${queue} queue?`, label: "Drain", danger: true, fields: [reason],
      text: "It takes no new messages: they are refused. Those that wait are delivered.",
      act: call("drain", `The ${queue} queue is drained: it takes no new messages.`),
    }), { danger: true, label: `Drain the ${queue} queue` }));
  }
  found.push(button("Scale", () => scale(queue, context), { label: `Scale the ${queue} queue` }));
  return found;
}

function scale(queue, { live }) {
  const nodes = live.status?.nodes ?? [];
  const first = nodes.find((node) => node.name === live.status.node) ?? nodes[0];
  ask({
    title: `Scale the ${queue} queue`, label: "Scale",
    text: "How many workers a node has, and how many sends each may have in flight. Nothing: as configured.",
    fields: [
      { name: "node", label: "Node", options: nodes.map((node) => [node.name, node.name]), value: first?.name ?? "" },
      { name: "processes", label: "Workers, 0 to 256", type: "number", min: 0, max: 256, value: first?.roles?.[queue] ?? "" },
      { name: "concurrency", label: "Sends in flight in each, 1 to 10,000", type: "number", min: 1, max: 10_000,
        value: first?.concurrency?.[queue] ?? "" },
      { name: "force", label: "Also when no other node has a worker of it", type: "checkbox" },
    ],
    act: async (values, once) => {
      const numberOf = (text) => text === "" ? null : Number(text);
      const made = await post(`/admin/queues/${queue}/scale`, {
        node: values.node || null, processes: numberOf(values.processes),
        concurrency: numberOf(values.concurrency), force: values.force,
      }, once);
      const workers = made.processes === null ? "as many workers as configured" : count(made.processes, "worker");
      return `Node ${made.node} has ${workers} of the ${queue} queue within about a second.`;
    },
  });
}

function backlogTable(queue) {
  return new Table({
    caption: `Organisations that wait in the ${queue} queue`,
    key: (row) => String(row.organisation_id),
    emptyText: "Nobody waits: messages are sent as they come.",
    columns: [
      { title: "Organisation", cell: (row) => ({ text: String(row.organisation_id), href: `/console/organisation?id=${row.organisation_id}` }) },
      { title: "State", cell: (row) => row.paused ? { text: "paused", tone: "warn" } : { text: "sending", tone: "good" } },
      { title: "Messages", number: true, cell: (row) => number(row.messages) },
      { title: "Put off", number: true, cell: (row) => number(row.put_off) },
      { title: "Segments", number: true, cell: (row) => number(row.segments) },
      { title: "Oldest", number: true, cell: (row) => span(row.oldest_ms) },
      { title: "Weight", number: true, cell: (row) => String(row.weight) },
      { title: "Segments in 10 s", number: true, cell: (row) => short(row.segments_in_10_s) },
      { title: "Share", number: true, cell: (row) => percent(row.share) },
      { title: "Ends in", number: true, cell: endOf },
    ],
  });
}

/** In how long all of it will have left. */
function endOf(row) {
  if (row.paused) return "paused";
  return row.ends_in_ms === null ? "unknown" : span(row.ends_in_ms);
}
