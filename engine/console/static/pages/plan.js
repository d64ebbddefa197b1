// Capacity: the busiest minutes that were recorded, and what a plan for them, or for other peaks, says.

import { get, post } from "../api.js";
import { Block, empty, facts, filters, notice, section } from "../blocks.js";
import { add, fill, h } from "../dom.js";
import { count, number, percent, rate, span, time } from "../format.js";
import { Table } from "../tables.js";

const DAYS = 30;

export function open(view, context) {
  const { signal } = context;
  const recorded = new Block({ signal, load: () => get("/admin/traffic", { days: DAYS }, { signal }), draw: drawRecorded });
  const result = h("div", { "aria-live": "polite" });
  const form = filters([
    { name: "peaks", label: "Peaks", type: "textarea", rows: 4, cols: 44, spellcheck: "false",
      hint: "A line each: organisation,queue,messages_per_second,burst. Nothing: what was recorded." },
    { name: "response_times", label: "Response times of the provider", size: 34, placeholder: "p50=80ms,p90=150ms,p99=900ms",
      hint: "Nothing: as recorded." },
    { name: "targets", label: "Targets", type: "textarea", rows: 2, cols: 30, spellcheck: "false", required: true,
      value: "express p99 <= 2s\nnormal p95 <= 10min", hint: "A line each." },
    { name: "what_if", label: "What if", type: "textarea", rows: 2, cols: 30, spellcheck: "false", value: "provider p50=2s",
      hint: "A line each, such as provider p50=2s." },
  ], (values) => {
    const block = new Block({ signal, busy: "The plan is made …", load: () => post("/admin/plan", wanted(values)), draw: drawPlan });
    fill(result, block.element);
    block.load();
  }, "Make a plan");
  form.classList.add("tall");
  add(view, [
    section("Recorded", recorded.element),
    section("Plan", form, result),
  ]);
  recorded.load();
}

function lines(text) {
  return text.split("\n").map((line) => line.trim()).filter(Boolean);
}

/** The body of the call. A line that cannot be read goes as it is, so that the engine says what is wrong. */
function wanted({ peaks, response_times, targets, what_if }) {
  const body = { targets: lines(targets), what_if: lines(what_if) };
  if (response_times) body.response_times = response_times;
  const rows = lines(peaks).filter((line) => !line.startsWith("organisation,"));
  if (!rows.length) return { ...body, days: DAYS };
  body.peaks = rows.map((line) => {
    const [organisation, queue, messages, burst] = line.split(",").map((part) => part.trim());
    return { organisation, queue, messages_per_second: Number(messages), burst: Number(burst ?? 1) };
  });
  return body;
}

function drawRecorded(found) {
  if (!found.busiest.length) return empty(`No message was accepted in the last ${DAYS} days.`);
  return new Table({ caption: `The busiest minute of each queue in the last ${DAYS} days`, key: (row) => row.queue, columns: [
    { title: "Queue", cell: (row) => row.queue },
    { title: "Busiest minute", cell: (row) => time(new Date(row.at_s * 1000).toISOString()).slice(0, 16) },
    { title: "Messages", number: true, cell: (row) => number(row.messages) },
    { title: "a second", number: true, cell: (row) => rate(row.messages / 60) },
    { title: "Segments", number: true, cell: (row) => number(row.segments) },
    { title: "Answers p50", number: true, cell: (row) => span(row.response_ms.p50) },
    { title: "p95", number: true, cell: (row) => span(row.response_ms.p95) },
    { title: "p99", number: true, cell: (row) => span(row.response_ms.p99) },
  ] }).update(found.busiest).element;
}

function drawPlan(plan) {
  return [
    plan.meets ? notice("This plan meets the targets.", "good") : notice(`No plan meets the targets: ${plan.reason}`, "bad"),
    plan.warnings.map((text) => notice(text)),
    queueTable(plan.queues),
    facts([
      ["Nodes", `${number(plan.nodes.nodes)} of ${count(plan.nodes.cores_per_node, "core")}`],
      ["Cores kept busy", plan.nodes.cores_needed.toFixed(2)],
      ["Costs of", plan.costs],
    ]),
    plan.what_if.length > 0 && section("What if", variationTable("What if", plan.what_if)),
    plan.sensitivity.length > 0 && section("With an input that is different", variationTable("Sensitivity", plan.sensitivity)),
    section("Configuration of each node", h("pre", { class: "text code", tabindex: "0" }, plan.config)),
  ];
}

function queueTable(queues) {
  return new Table({ caption: "The plan", key: (row) => row.queue, columns: [
    { title: "Queue", cell: (row) => row.queue },
    { title: "Workers", number: true, cell: (row) => number(row.processes) },
    { title: "Concurrency", number: true, cell: (row) => number(row.concurrency) },
    { title: "Messages/s", number: true, cell: (row) => rate(row.messages_per_second) },
    { title: "p50", number: true, cell: (row) => latency(row.predicted, "p50") },
    { title: "p95", number: true, cell: (row) => latency(row.predicted, "p95") },
    { title: "p99", number: true, cell: (row) => latency(row.predicted, "p99") },
    { title: "Targets", cell: (row) => row.targets.length
      ? { text: row.targets.map((one) => `p${Number((one.quantile * 100).toFixed(3))} ≤ ${span(one.at_most_ms)}`).join(", "), tone: row.targets.every((one) => one.met) ? "good" : "bad" } : "none" },
    { title: "Utilisation", number: true, cell: (row) => percent(row.utilisation) },
    { title: "Bottleneck", cell: (row) => row.bottleneck },
    { title: "One worker fewer", cell: (row) => lossOf(row.after_loss_of_a_process) },
    { title: "Backlog of a minute drains in", number: true, cell: (row) => row.drained_after_outage_s === null ? "never" : span(row.drained_after_outage_s * 1000) },
  ] }).update(queues).element;
}

// Where more arrives than is sent, no figure says anything.
function latency(predicted, quantile) {
  return predicted?.grows ? "grows" : span(predicted?.[`${quantile}_ms`]);
}

function lossOf(loss) {
  if (!loss) return { text: "nothing is sent", tone: "warn" };
  return loss.met ? { text: "meets the targets", tone: "good" } : { text: `p99 ${latency(loss.predicted, "p99")}`, tone: "warn" };
}

function variationTable(caption, variations) {
  const queues = [...new Set(variations.flatMap((one) => Object.keys(one.predicted)))];
  return new Table({ caption, key: (row) => row.name, columns: [
    { title: "Input", cell: (row) => row.name },
    { title: "Targets", cell: (row) => row.met ? { text: "met", tone: "good" } : { text: "not met", tone: "bad" } },
    ...queues.flatMap((queue) => ["p50", "p99"].map((quantile) => ({
      title: `${queue} ${quantile}`, number: true, cell: (row) => latency(row.predicted[queue], quantile),
    }))),
    { title: "Why", wide: true, cell: (row) => row.reason },
  ] }).update(variations).element;
}
