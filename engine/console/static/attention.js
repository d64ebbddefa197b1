// What an operator has to know of the state of the engine, the worst first.

import { count, number, span, words } from "./format.js";

const TONES = ["bad", "warn"];

/** [{text, tone, href}] */
export function attention(status) {
  const found = [];
  const note = (tone, text, href = null) => found.push({ tone, text, href });
  for (const [what, why] of Object.entries(status.missing ?? {})) note("bad", `Not known: ${words(what)}. ${why}`);
  ofNodes(status, note);
  ofQueues(status, note);
  ofProviders(status, note);
  ofMemory(status, note);
  ofArchive(status, note);
  ofCredit(status, note);
  ofWebhooks(status, note);
  for (const one of status.paused_organisations ?? []) {
    note("warn", `Organisation ${one.name} is paused${because(one.reason)}.`, `/console/organisation?id=${one.id}`);
  }
  return found.sort((a, b) => TONES.indexOf(a.tone) - TONES.indexOf(b.tone));
}

function because(reason) {
  return reason ? `: ${reason}` : "";
}

function ofNodes(status, note) {
  for (const node of status.nodes ?? []) {
    if (node.seen === "gone") note("bad", `Node ${node.name} is gone.`, "/console/nodes");
    else if (node.seen !== "running") note("warn", `Node ${node.name} is ${node.seen}${because(node.reason)}.`, "/console/nodes");
    const disk = node.disk;
    if (disk && disk.free_mb < disk.low_below_mb) {
      note("bad", `The disk of ${disk.place} on ${node.name} has ${number(disk.free_mb)} MB free, of ${number(disk.total_mb)} MB: make room.`);
    }
    if (node.seen !== "running") continue;
    for (const one of node.processes) {
      if (one.degraded) note("bad", `${one.role} ${one.index} on ${node.name} is degraded: ${one.last_words}`, "/console/nodes");
      else if (!one.pid) note("bad", `${one.role} ${one.index} on ${node.name} has no process.`, "/console/nodes");
    }
  }
}

function ofQueues(status, note) {
  for (const [queue, pause] of Object.entries(status.paused_queues ?? {})) {
    note("warn", `The ${queue} queue is paused${because(pause.reason)}.`, "/console/queues");
  }
  for (const [queue, drain] of Object.entries(status.drained_queues ?? {})) {
    note("warn", `The ${queue} queue is drained${because(drain.reason)}.`, "/console/queues");
  }
  for (const [queue, one] of Object.entries(status.queues ?? {})) {
    if (one.dead) note("bad", `${count(one.dead, "dead letter")} of the ${queue} queue.`, `/console/dead-letters?queue=${queue}`);
  }
}

function ofProviders(status, note) {
  for (const [name, pause] of Object.entries(status.provider_pauses ?? {})) {
    note("warn", `Provider ${name} is paused${because(pause.reason)}.`, "/console/providers");
  }
  for (const [name, one] of Object.entries(status.flow?.providers ?? {})) {
    const open = one.circuits.open ?? 0;
    if (open) note("bad", `The breaker of provider ${name} is open in ${count(open, "worker")}.`, "/console/providers");
  }
  if (status.problems_last_hour) {
    note("warn", `Providers sent ${count(status.problems_last_hour, "thing")} in the last hour that was not understood.`, "/console/providers");
  }
}

function ofMemory(status, note) {
  const memory = status.memory;
  if (!memory?.full) return;
  note("bad", `Redis uses ${number(memory.used_mb)} of the ${number(memory.limit_mb)} MB of its maxmemory: new messages are refused.`);
}

function ofArchive(status, note) {
  const waited = status.activity?.oldest_ms ?? 0;
  if (waited < 60_000) return;
  const memory = status.memory;
  const taken = memory?.waiting_mb == null ? "" : ` What waits for it takes about ${number(memory.waiting_mb)} MB of Redis's memory`;
  let room = taken && ".";
  if (taken && memory.lasts_ms && !memory.full) room = `, which is full in ${span(memory.lasts_ms)} if this goes on: then new messages are refused.`;
  else if (taken && !memory.limit_mb) room = ", which has no bound.";
  note("bad", `Events of ${span(waited)} ago are not in ClickHouse yet: it is away or slow, or no archiver works.${taken}${room}`);
}

function ofCredit(status, note) {
  const ledger = status.ledger;
  if (!ledger) return;
  if (ledger.held_up_by) note("bad", `The books are held up by ${ledger.held_up_by}.`);
  if (ledger.lag_ms > 10_000) note("warn", `The books are ${span(ledger.lag_ms)} behind.`);
  if (ledger.unbooked_organisations) {
    note("bad", `${count(ledger.unbooked_organisations, "organisation")} suspended: usage of ${count(ledger.unbooked_units, "unit")} is not booked.`);
  }
  if (ledger.shards_to_rebuild) note("bad", `Usage of ${count(ledger.shards_to_rebuild, "shard")} waits to be rebuilt.`);
  if (ledger.uncharged_units) note("warn", `Sent and not charged in the last seven days: ${count(ledger.uncharged_units, "unit")}.`);
}

function ofWebhooks(status, note) {
  const webhooks = status.webhooks;
  if (!webhooks?.failing_endpoints) return;
  const [first] = webhooks.failing;
  const named = first ? `: organisation ${first.organisation_id} ${first.origin} since ${span(first.waits_ms)}` : "";
  const others = webhooks.failing_endpoints > 1 ? " and others" : "";
  note("warn", `Webhooks fail at ${count(webhooks.failing_endpoints, "endpoint")}${named}${others}.`,
    first ? `/console/webhooks?organisation=${first.organisation_id}` : null);
}
