// One message: what it is, what it costs, and everything that happened to it.

import { get } from "../api.js";
import { Block, empty, facts, notice, section } from "../blocks.js";
import { add, button, h, state } from "../dom.js";
import { count, exactTime, number, span, time, words } from "../format.js";
import { pathOf } from "../organisation_choice.js";
import { eventSentence, eventTone, messageTone } from "../statuses.js";

export function open(view, context) {
  const { session, query, signal } = context;
  const id = query.get("id") ?? "";
  const path = `${pathOf(session, query.get("organisation") ?? "")}/messages/${encodeURIComponent(id)}`;
  const block = new Block({ signal, load: () => get(path, {}, { signal }), draw: (one) => draw(one, query.get("organisation")) });
  add(view, [h("p", { class: "buttons" }, h("code", {}, id), button("Load again", () => block.load())), block.element]);
  block.load();
}

function draw(one, organisation) {
  const incomplete = one.history_complete === false
    && notice("The newest events may be missing: the archive does not answer, or is behind.");
  return [
    incomplete,
    facts([
      ["Status", state(words(one.status), messageTone(one.status))],
      organisation && ["Organisation", h("a", { href: `/console/organisation?id=${encodeURIComponent(organisation)}` }, organisation)],
      ["To", one.to || "–"],
      ["From", h("span", { dir: "auto" }, one.from || "–")],
      ["Queue", one.queue],
      ["Charge", `${one.charge}, ${count(one.units, "unit")}`],
      ["Segments", `${number(one.segments)} at ${count(one.price, "unit")}, ${one.encoding}`],
      ["Provider", one.provider || "–"],
      ["Attempts", number(one.attempts)],
      ["Outcome", one.outcome_unknown ? state("an attempt had no answer", "warn") : "known"],
      ["Reference", h("span", { dir: "auto" }, one.reference || "–")],
      ["Accepted at", time(one.accepted_at)],
      ["Expires at", time(one.expires_at)],
    ]),
    section("Text", textOf(one, organisation)),
    section("History", timeline(one.events)),
  ];
}

/** The text in its own direction; operators do not get it, and it is not recorded everywhere, nor for ever. */
function textOf(one, organisation) {
  if (typeof one.text === "string") return h("p", { class: "text", dir: "auto" }, one.text);
  return empty(organisation ? "Texts are shown to their organisation alone." : "The text is not recorded, or not any more.");
}

function timeline(events) {
  if (!events.length) return empty("No event of the message is recorded.");
  const begin = new Date(events[0].at).getTime();
  return h("ol", { class: "timeline" }, events.map((event) => {
    const after = new Date(event.at).getTime() - begin;
    const more = [
      event.provider && `provider ${event.provider}`,
      event.provider_message_id && `its id ${event.provider_message_id}`,
      event.attempt && `attempt ${event.attempt}`,
      event.segment && `segment ${event.segment}`,
      event.code && `code ${event.code}`,
      event.latency_ms && `answered in ${span(event.latency_ms)}`,
    ].filter(Boolean).join(", ");
    return h("li", { class: eventTone(event.event) },
      h("time", { datetime: event.at }, exactTime(event.at), after ? ` +${span(after)}` : ""),
      h("p", { class: "what" }, eventSentence(event.event)),
      more && h("p", { class: "more-facts" }, more));
  }));
}
