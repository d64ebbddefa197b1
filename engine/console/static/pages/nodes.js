// Nodes: their processes, and drain and resume.

import { post } from "../api.js";
import { loading, section } from "../blocks.js";
import { ask } from "../dialogs.js";
import { add, button, fill, h, state } from "../dom.js";
import { count, number, short, span, time } from "../format.js";
import { Table } from "../tables.js";

const TONES = { running: "good", draining: "warn", drained: "warn", stopped: "quiet", gone: "bad" };

export function open(view, context) {
  const { live, signal } = context;
  const wait = loading("Waiting for the state of the nodes …");
  const place = h("div");
  add(view, [wait, place]);
  const parts = new Map();
  live.follow(() => {
    const nodes = live.status?.nodes;
    if (!live.status) return;
    wait.hidden = Boolean(nodes);
    wait.textContent = nodes ? "" : `The nodes are not known. ${live.status.missing?.nodes ?? ""}`;
    for (const node of nodes ?? []) {
      if (!parts.has(node.name)) {
        const part = nodePart(node.name, context);
        parts.set(node.name, part);
        place.append(part.element);
      }
      parts.get(node.name).update(node, live.at);
    }
    for (const [name, part] of parts) {
      if (nodes && !nodes.some((node) => node.name === name)) {
        part.element.remove();
        parts.delete(name);
      }
    }
  }, signal);
}

function nodePart(name, { may }) {
  const line = h("p", { class: "small" });
  const controls = h("div", { class: "buttons" });
  const changes = h("p", { class: "small" });
  let now = 0;
  const table = new Table({
    caption: `Processes of node ${name}`,
    key: (row) => `${row.role} ${row.index}`,
    emptyText: "It has no process.",
    columns: [
      { title: "Process", cell: (row) => `${row.role} ${row.index}` },
      { title: "State", cell: processState },
      { title: "For", number: true, cell: (row) => row.since_us ? span(Math.max(0, now - row.since_us / 1000)) : "–" },
      { title: "CPU", number: true, cell: (row) => `${Math.round(row.cpu_percent)} %` },
      { title: "Memory", number: true, cell: (row) => row.memory_mb ? `${short(row.memory_mb)} MB` : "–" },
      { title: "Generation", number: true, cell: (row) => number(row.generation) },
      { title: "Restarts", number: true, cell: (row) => number(row.restarts) },
      { title: "Last words", wide: true, cell: (row) => row.last_words || "" },
    ],
  });
  let sign = "";
  return {
    element: section(`Node ${name}`, line, controls, table.element, changes),
    update: (node, at) => {
      now = at;
      const stopped = node.seen === "stopped";
      const ready = node.processes.filter((one) => one.pid && one.state === "ready" && !one.degraded).length;
      fill(line, state(node.seen, TONES[node.seen]), node.reason ? `: ${node.reason}` : "",
        `${stopped ? "" : `  ·  ${ready} of ${count(node.processes.length, "process", "processes")} ready`}  ·  version ${node.version}, formats ${node.formats}`,
        node.since_us ? `  ·  since ${time(new Date(node.since_us / 1000).toISOString())}` : "");
      // Those that need attention come first.
      table.update(stopped ? [] : [...node.processes].sort((a, b) => rank(a) - rank(b)));
      const scaled = Object.entries(node.scaled ?? {}).map(([queue, one]) =>
        `Autoscaling of ${queue}: ${count(one.processes, "worker")} with ${count(one.concurrency, "send")} each. ${one.reason}`);
      fill(changes, scaled.join(" "));
      if (!may("operate")) return;
      const wished = node.drain_wished === true || node.seen === "drained" || node.seen === "draining";
      if (sign === String(wished)) return;
      sign = String(wished);
      fill(controls, wished ? resume(name) : drain(name));
    },
  };
}

function rank(one) {
  return one.degraded || !one.pid ? 0 : one.state !== "ready" ? 1 : 2;
}

function processState(row) {
  if (row.degraded) return { text: "degraded", tone: "bad" };
  if (!row.pid) return { text: "no process", tone: "bad" };
  return { text: row.state, tone: row.state === "ready" ? "good" : "warn" };
}

function drain(name) {
  return button("Drain", () => ask({
    title: `Drain node ${name}?`, label: "Drain", danger: true,
    text: "It takes nothing new, and finishes what is in hand.",
    fields: [
      { name: "reason", label: "Reason, for those who look later", maxlength: 200 },
      { name: "force", label: "Also when no other node does what this one does", type: "checkbox" },
    ],
    act: async (values, once) => {
      await post(`/admin/nodes/${encodeURIComponent(name)}/drain`,
        values.reason ? { reason: values.reason, force: values.force } : { force: values.force }, once);
      return `Node ${name} takes nothing new from about a second later on.`;
    },
  }), { danger: true, label: `Drain node ${name}` });
}

function resume(name) {
  return button("Resume", () => ask({
    title: `Resume node ${name}?`, label: "Resume", text: "It works again.",
    act: async (_, once) => {
      await post(`/admin/nodes/${encodeURIComponent(name)}/resume`, {}, once);
      return `Node ${name} works again.`;
    },
  }), { label: `Resume node ${name}` });
}
