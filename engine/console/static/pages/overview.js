// Live: how fast messages move and how long they take, beside the target, and what needs attention.

import { empty, loading, section } from "../blocks.js";
import { TimeChart } from "../charts.js";
import { add, fill, h, say } from "../dom.js";
import { clock, count, json, number, rate, RATE_STEPS, short, span, SPAN_STEPS } from "../format.js";
import { attention } from "../attention.js";
import { providerTable } from "../provider_table.js";
import { processesOf } from "../statuses.js";

const QUEUES = ["express", "normal"];
const SHOWN_S = 300;

export function open(view, { live, signal }) {
  const wait = loading("Waiting for the first state of the engine …");
  const parts = h("div", { hidden: true });
  add(view, [wait, parts]);
  const notes = h("ul", { class: "notes", "aria-label": "Needs attention" });
  const queues = QUEUES.map((queue) => queuePart(queue, signal));
  const providers = providerTable(null);
  const lines = factLine(["Submissions", "Grants of quota", "Waits for credit", "Refused for credit", "Books behind", "Archive behind", "Receipts waiting"]);
  add(parts, [
    section("Attention", notes),
    queues.map((part) => part.element),
    section("Providers", providers.element),
    section("Credit and records", lines.element),
  ]);
  live.follow(() => {
    const status = live.status;
    if (!status) return;
    wait.hidden = true;
    parts.hidden = false;
    showNotes(notes, status);
    queues.forEach((part) => part.update(status, live));
    const pauses = status.provider_pauses ?? {};
    providers.update(Object.entries(status.flow?.providers ?? {}).map(([name, one]) => ({ name, ...one, pause: pauses[name] })));
    const credit = status.flow?.credit;
    lines.update([
      perSecond(credit?.submissions), perSecond(credit?.grants), perSecond(credit?.waits), perSecond(credit?.refusals),
      status.ledger ? span(status.ledger.lag_ms) : "–",
      status.activity ? `${short(status.activity.waiting_entries)} ${status.activity.waiting_entries === 1 ? "entry" : "entries"}, ${span(status.activity.oldest_ms)}` : "–",
      status.receipts ? `${short(status.receipts.waiting_entries)} ${status.receipts.waiting_entries === 1 ? "batch" : "batches"}, ${span(status.receipts.oldest_ms)}` : "–",
    ]);
  }, signal);
}

/** A time of the axis; under the pointer too, the seconds matter only between the full minutes. */
function minute(seconds) {
  const text = clock(new Date(seconds * 1000));
  return text.endsWith(":00") ? text.slice(0, 5) : text;
}

function perSecond(value) {
  return value === undefined ? "–" : `${rate(value)}/s`;
}

function showNotes(place, status) {
  const found = attention(status);
  const sign = json([found, processes(status)]);
  if (place.dataset.sign === sign) return;
  place.dataset.sign = sign;
  if (!found.length) {
    fill(place, h("li", { class: "good" }, `All is as it should be: ${processes(status)}.`));
    return;
  }
  fill(place, found.map(({ text, tone, href }) => h("li", { class: tone }, href ? h("a", { href }, text) : text)));
}

function processes(status) {
  const all = processesOf(status);
  const ready = all.filter((one) => one.pid && one.state === "ready").length;
  return `${ready} of ${count(all.length, "process", "processes")} ready`;
}

/** A row of facts whose values are replaced. */
function factLine(names) {
  const values = names.map(() => h("dd", {}, "–"));
  const element = h("dl", { class: "facts line" }, names.map((name, place) => h("div", {}, h("dt", {}, name), values[place])));
  return { element, update: (texts) => texts.forEach((text, place) => say(values[place], text)) };
}

function queuePart(queue, signal) {
  const line = factLine(["Accepted", "Sent", "Waiting", "In hand", "Due", "Dead letters", "Oldest", "p50", "p99", "Target"]);
  const throughput = new TimeChart({
    title: "Throughput, messages a second", signal, format: rate, times: minute, incrs: [60, 120], steps: RATE_STEPS,
    series: [{ label: "accepted", tone: "series-1" }, { label: "sent", tone: "series-2" }],
  });
  const latency = new TimeChart({
    title: "From acceptance to a provider", signal, format: span, times: minute, incrs: [60, 120], steps: SPAN_STEPS,
    series: [{ label: "p50", tone: "series-1" }, { label: "p99", tone: "series-2" }],
  });
  const title = queue === "express" ? "Express queue" : "Normal queue";
  const element = section(title, line.element, h("div", { class: "charts" }, throughput.element, latency.element));
  element.classList.add("queue");
  return { element, update: (status, live) => {
    const flow = status.flow?.queues?.[queue];
    const state = status.queues?.[queue];
    const target = status.targets?.[queue] ?? null;
    line.update([
      flow ? `${rate(flow.in_per_s)}/s` : "–", flow ? `${rate(flow.out_per_s)}/s` : "–",
      short(state?.waiting), short(state?.in_hand), short(state?.due), number(state?.dead), span(state?.oldest_ms),
      span(flow?.p50_ms), span(flow?.p99_ms),
      target ? `p${target.quantile * 100} ≤ ${span(target.at_most_ms)}` : "none",
    ]);
    const now = live.at / 1000;
    const period = [now - SHOWN_S, now];
    if (flow) {
      const step = status.flow.step_s;
      const last = Math.floor(now / step) * step;
      const times = flow.ins.map((_, place) => last - (flow.ins.length - 1 - place) * step);
      throughput.update(times, [flow.ins, flow.outs], period);
    }
    const samples = live.samples[queue].filter((one) => one.at >= period[0]);
    latency.target = target?.at_most_ms ?? null;
    latency.update(samples.map((one) => one.at), [samples.map((one) => one.p50), samples.map((one) => one.p99)], period);
    latency.note(flow && flow.p50_ms === null ? "nothing was sent in the last minute" : "");
  } };
}
