// Providers: breakers, rates, pause and resume, throughput, and what was not understood.

import { get, post, put } from "../api.js";
import { Block, section } from "../blocks.js";
import { ask } from "../dialogs.js";
import { add, fill, h } from "../dom.js";
import { number, rate, time, words } from "../format.js";
import { providerTable } from "../provider_table.js";
import { Table } from "../tables.js";

export function open(view, context) {
  const { live, signal, may, query } = context;
  let configured = [];
  const table = providerTable(may("operate") ? (row) => controlsOf(row, () => block.load()) : null);
  const show = () => {
    const flow = live.status?.flow?.providers ?? {};
    const pauses = live.status?.provider_pauses;
    const names = new Set([...configured.map((one) => one.name), ...Object.keys(flow)]);
    table.update([...names].map((name) => {
      const own = configured.find((one) => one.name === name);
      const one = flow[name] ?? {};
      // Until the state is there, nothing is known of its breakers.
      const circuits = one.circuits ?? (live.status ? {} : null);
      return { ...one, circuits, name,
        paused: pauses ? name in pauses : own?.paused ?? one.paused, pause: pauses ? pauses[name] : own?.pause,
        throughput: own ? own.throughput.in_force : one.throughput, configured: own?.throughput.configured ?? null };
    }));
  };
  const block = new Block({ signal, load: () => get("/admin/providers", {}, { signal }), draw: (found) => {
    configured = found.providers;
    show();
    return table.element;
  } });
  block.load();
  live.follow(() => block.element.contains(table.element) && show(), signal);
  add(view, [section("Rates and breakers", block.element), problemsPart(context)]);
  if (query.get("name")) add(view, samplesPart(query.get("name"), context));
}

function controlsOf(row, changed) {
  const path = `/admin/providers/${encodeURIComponent(row.name)}`;
  const pause = row.paused
    ? { label: "Resume", name: row.name, act: () => ask({
        title: `Resume provider ${row.name}?`, label: "Resume", text: "Messages are sent through it again.",
        act: async (_, once) => {
          await post(`${path}/resume`, {}, once);
          changed();
          return `Provider ${row.name} is sent through again.`;
        } }) }
    : { label: "Pause", name: row.name, danger: true, act: () => ask({
        title: `Pause provider ${row.name}?`, label: "Pause", danger: true,
        text: "Nothing is sent through it. Its messages go to other providers of their route, or wait.",
        fields: [{ name: "reason", label: "Reason, for those who look later", maxlength: 200 }],
        act: async (values, once) => {
          await post(`${path}/pause`, values.reason ? { reason: values.reason } : {}, once);
          changed();
          return `Provider ${row.name} is paused: nothing is sent through it.`;
        } }) };
  const throughput = { label: "Throughput", name: `of ${row.name}`, act: () => ask({
    title: `Throughput of provider ${row.name}`, label: "Set",
    text: `Segments a second, all workers together. Nothing: as configured (${row.configured === null ? "no limit" : `${rate(row.configured)}/s`}).`,
    fields: [{ name: "throughput", label: "Segments a second", type: "number", min: 0.1, max: 1_000_000, step: "any",
      value: row.throughput ?? "" }],
    act: async (values) => {
      const made = await put(path, { throughput: values.throughput === "" ? null : Number(values.throughput) });
      changed();
      const now = made.throughput.in_force;
      return `The throughput of provider ${row.name} is ${now === null ? "without a limit" : `${rate(now)} ${now === 1 ? "segment" : "segments"} a second`}.`;
    } }) };
  return [pause, throughput];
}

const countColumns = [
  { title: "Provider", cell: (row) => ({ text: row.provider, href: `/console/providers?name=${encodeURIComponent(row.provider)}` }) },
  { title: "What was not understood", cell: (row) => words(row.kind) },
  { title: "Last hour", number: true, cell: (row) => number(row.last_hour) },
  { title: "Last day", number: true, cell: (row) => number(row.last_day) },
  { title: "In all", number: true, cell: (row) => number(row.total) },
  { title: "Last at", cell: (row) => time(new Date(row.last_at_us / 1000).toISOString()) },
];

function problemsPart({ signal }) {
  const table = new Table({ caption: "Problems of providers", columns: countColumns,
    key: (row) => `${row.provider} ${row.kind}`, emptyText: "Everything that providers sent was understood." });
  const block = new Block({ signal, load: () => get("/admin/problems", {}, { signal }),
    draw: (found) => table.update(found.problems).element });
  block.load();
  return section("Problems", block.element);
}

function samplesPart(name, { signal }) {
  const block = new Block({ signal, load: () => get(`/admin/providers/${encodeURIComponent(name)}/problems`, {}, { signal }),
    draw: (found) => {
      const samples = found.problems.flatMap((one) => one.samples.map((sample, place) => ({ ...sample, kind: one.kind, place })));
      return new Table({ caption: `Samples of problems of provider ${name}`, emptyText: "There are no samples of it.",
        key: (row) => `${row.kind} ${row.at_us} ${row.place}`,
        columns: [
          { title: "At", cell: (row) => time(new Date(row.at_us / 1000).toISOString()) },
          { title: "What was not understood", cell: (row) => words(row.kind) },
          { title: "Sample", cell: (row) => row.sample, wide: true, code: true, dir: "auto" },
        ] }).update(samples).element;
    } });
  block.load();
  return section(`Samples of ${name}`, block.element);
}
