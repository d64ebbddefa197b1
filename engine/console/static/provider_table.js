// The table of providers and how fast they are, on the live page and on that of the providers.

import { rate, short, span } from "./format.js";
import { Table } from "./tables.js";

/** `controls(row)`: what can be done with one; null: nothing. */
export function providerTable(controls) {
  const columns = [
    { title: "Provider", cell: (row) => ({ text: row.name, href: `/console/providers?name=${encodeURIComponent(row.name)}` }) },
    { title: "Breaker", cell: breaker },
    { title: "Sends/s", number: true, cell: (row) => rate(row.sends_per_s) },
    { title: "Throughput", number: true, cell: (row) => row.throughput === null || row.throughput === undefined ? "no limit" : `${rate(row.throughput)}/s` },
    { title: "In flight", number: true, cell: (row) => short(row.in_flight) },
    { title: "Waiting", number: true, cell: (row) => short(row.waiting) },
    { title: "p50", number: true, cell: (row) => span(row.p50_ms) },
    { title: "p99", number: true, cell: (row) => span(row.p99_ms) },
    { title: "Receipts/s", number: true, cell: (row) => rate(row.receipts_per_s) },
  ];
  if (controls) columns.push({ title: "Controls", controls });
  return new Table({ caption: "Providers", columns, key: (row) => row.name, emptyText: "No worker has sent through a provider yet." });
}

function breaker(row) {
  if (row.paused) return { text: row.pause?.reason ? `paused: ${row.pause.reason}` : "paused", tone: "warn" };
  if (row.circuits === null) return "–";
  const circuits = Object.entries(row.circuits ?? {});
  const workers = circuits.reduce((sum, [, number]) => sum + number, 0);
  if (!workers) return { text: "no worker", tone: "quiet" };
  const shut = circuits.filter(([name]) => name !== "closed");
  if (!shut.length) return { text: "closed", tone: "good" };
  return { text: shut.map(([name, number]) => `${name.replaceAll("_", " ")} ${number}/${workers}`).join(", "), tone: "bad" };
}
