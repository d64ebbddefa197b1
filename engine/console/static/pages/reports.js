// Reports: messages that were accepted in a period, in groups, as a chart and a table, and as files.

import { address, get } from "../api.js";
import { Block, empty, facts, filters, loading, notice, section } from "../blocks.js";
import { TimeChart } from "../charts.js";
import { add, fill, h } from "../dom.js";
import { instant, number, percent, short, span, time, words } from "../format.js";
import { organisationField, pathOf } from "../organisation_choice.js";
import { Table } from "../tables.js";

const GROUPS = ["hour", "day", "minute", "status", "queue", "provider", "country", "organisation", "reference"];
const TIMES = ["minute", "hour", "day"];
const SECONDS = { minute: 60, hour: 3_600, day: 86_400 };
// So many of a group may lie between two times of the axis.
const STEPS = { minute: [5, 15, 60, 180], hour: [1, 3, 6, 12, 24, 72], day: [1, 2, 7, 14, 30, 90, 365] };
const QUARTER_S = 900;
// So many rows are shown; totals and the chart are of all that the API gives, which is so many at most.
const SHOWN_MAX = 1_000;
const ROWS_MAX = 10_000;
const ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";

export async function open(view, context) {
  const { query, session, remember } = context;
  const wait = loading();
  add(view, [wait]);
  const [own] = await organisationField(context);
  wait.remove();
  const isAdmin = session.kind === "admin";
  const now = Math.ceil(Date.now() / 1000 / QUARTER_S) * QUARTER_S;
  const of = (name, otherwise) => query.get(name) ?? otherwise;
  const values = {
    organisation: of("organisation", ""), first: of("first", "hour"), second: of("second", ""), queue: of("queue", ""),
    from: of("from", local(now - 86_400)), until: of("until", local(now)),
  };
  const groups = GROUPS.filter((name) => isAdmin || name !== "organisation").map((name) => [name, name]);
  const form = filters([
    ...(isAdmin ? [{ ...own, required: false, value: values.organisation, ...(own.options && { options: [["", "all"], ...own.options] }) }] : []),
    { name: "from", label: "From", type: "datetime-local", step: QUARTER_S, value: values.from, required: true },
    { name: "until", label: "Until", type: "datetime-local", step: QUARTER_S, value: values.until, required: true },
    { name: "first", label: "Group by", options: [["", "nothing"], ...groups], value: values.first },
    { name: "second", label: "and by", options: [["", "nothing"], ...groups], value: values.second },
    { name: "queue", label: "Queue", options: [["", "any"], ["express", "express"], ["normal", "normal"]], value: values.queue },
  ], (wanted) => {
    remember(wanted);
    show(wanted);
  }, "Show report");
  const result = h("div");
  const show = (wanted) => {
    const block = reportBlock(wanted, context);
    fill(result, block.element, filesOf(wanted, context));
    block.load();
  };
  add(view, [form, result]);
  show(values);
}

/** Seconds since 1970 as the value of a field of a local time. */
function local(seconds) {
  const date = new Date(seconds * 1000);
  return new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}

function reportBlock(values, { session, signal }) {
  const groups = [...new Set([values.first, values.second].filter(Boolean))];
  const path = session.kind === "admin" ? "/admin/reports/summary" : "/reports/summary";
  return new Block({ signal, busy: "The report is made …", load: () => get(path, {
    organisation: session.kind === "admin" ? values.organisation : "", from_time: instant(values.from), until_time: instant(values.until),
    group_by: groups.join(","), queue: values.queue, time_zone: ZONE,
  }, { signal }), draw: (report) => draw(report, groups, signal) });
}

function draw(report, groups, signal) {
  if (!report.rows.length || !report.rows.some((row) => row.messages)) return empty("No message was accepted in this period.");
  const table = reportTable(groups, report.rows);
  const shown = report.rows.slice(0, SHOWN_MAX);
  const places = groups.filter((name) => TIMES.includes(name));
  return [
    report.complete === false && notice("Messages of an earlier version are still being counted: the numbers may rise."),
    totals(report.rows),
    places.length === 1 && timeChart(report, places[0], signal),
    shown.length < report.rows.length
      && notice(`These are the first ${number(shown.length)}, and there are ${number(report.rows.length)}; the API has all.`),
    report.rows.length >= ROWS_MAX && notice(`There may be more rows: totals are of the first ${number(ROWS_MAX)}.`),
    table.update(shown.map((row, place) => ({ ...row, place }))).element,
  ];
}

function totals(rows) {
  const sum = (name) => rows.reduce((all, row) => all + Number(row[name] ?? 0), 0);
  const known = rows[0].delivered !== undefined;
  return facts([
    ["Messages", number(sum("messages"))], ["Segments", number(sum("segments"))], ["Units", number(sum("units"))],
    known && ["Delivered", number(sum("delivered"))],
    known && ["Failed, undelivered, expired", number(sum("failed") + sum("undelivered") + sum("expired"))],
  ]);
}

/** Messages by time; what else the report is grouped by is added up. */
function timeChart(report, group, signal) {
  const rows = report.rows;
  const byTime = new Map();
  for (const row of rows) {
    const at = new Date(row.time).getTime() / 1000;
    const one = byTime.get(at) ?? { messages: 0, delivered: 0 };
    one.messages += row.messages;
    one.delivered += row.delivered ?? 0;
    byTime.set(at, one);
  }
  const times = [...byTime.keys()].sort((a, b) => a - b);
  const withDelivered = rows[0].delivered !== undefined;
  const series = [{ label: "messages", tone: "series-1", bars: true }];
  if (withDelivered) series.push({ label: "delivered", tone: "series-2", dots: true });
  const chart = new TimeChart({
    title: `Messages by ${group}`, series, format: short, signal, height: 180, incrs: STEPS[group].map((step) => step * SECONDS[group]),
    times: (s) => time(new Date(s * 1000).toISOString()).slice(group === "day" ? 0 : 5, group === "day" ? 10 : 16),
  });
  const lines = [times.map((at) => byTime.get(at).messages)];
  if (withDelivered) lines.push(times.map((at) => byTime.get(at).delivered));
  const half = SECONDS[group] / 2;
  const begin = new Date(report.from_time).getTime() / 1000;
  const end = new Date(report.until_time).getTime() / 1000;
  chart.update(times, lines, [Math.min(begin, times[0] - half), Math.max(end, times.at(-1) + half)]);
  return chart.element;
}

function reportTable(groups, rows) {
  const has = (name) => rows[0][name] !== undefined;
  const columns = groups.map((name) => ({ title: titled(name), dir: "auto", cell: (row) => {
    if (TIMES.includes(name)) return time(row.time).slice(0, name === "day" ? 10 : 16);
    return words(row[name] === "" ? "none" : row[name]);
  } }));
  if (!columns.length) columns.push({ title: "Group", cell: () => "all" });
  for (const name of ["messages", "segments", "units", "accepted", "sent", "delivered", "undelivered", "failed", "expired", "canceled", "outcome_unknown", "retries", "captured", "released", "held"]) {
    if (has(name)) columns.push({ title: titled(name), number: true, cell: (row) => number(row[name]) });
  }
  if (has("delivery_rate")) columns.push({ title: "Delivery rate", number: true, cell: (row) => percent(row.delivery_rate) });
  for (const [name, title] of [["sent_after_ms", "Sent after, p95"], ["answer_ms", "Answer, p95"], ["delivered_after_ms", "Delivered after, p95"]]) {
    if (has(name)) columns.push({ title, number: true, cell: (row) => span(row[name]?.p95) });
  }
  return new Table({ caption: "Report", columns, key: (row) => String(row.place) });
}

function titled(name) {
  const text = words(name);
  return text[0].toUpperCase() + text.slice(1);
}

function filesOf(values, { session }) {
  const isAdmin = session.kind === "admin";
  if (isAdmin && !values.organisation) {
    return section("Files", empty("Choose one organisation to get its messages as a file."));
  }
  const path = isAdmin ? `${pathOf(session, values.organisation)}/reports/messages` : "/reports/messages";
  const links = [["csv", "CSV"], ["jsonl", "JSON lines"], ["parquet", "Parquet"]].map(([format, title]) => h("a", {
    href: address(path, { format, from_time: instant(values.from), until_time: instant(values.until), queue: values.queue }),
    download: `messages.${format}`,
  }, title));
  return section("Files", h("p", { class: "buttons" }, "The messages of this period, a row each: ", links));
}
