// One organisation: its credit and journal, its limits, and pause and resume.

import { get, patch, post } from "../api.js";
import { Block, facts, section } from "../blocks.js";
import { creditBlock } from "../credit.js";
import { ask } from "../dialogs.js";
import { add, button, fill, h, state } from "../dom.js";
import { number, time } from "../format.js";
import { organisationState } from "./organisations.js";

export function open(view, context) {
  const id = context.query.get("id") ?? "";
  const path = `/admin/organisations/${encodeURIComponent(id)}`;
  const head = headBlock(id, path, context);
  const limits = limitsBlock(path, context);
  const credit = creditBlock(path, context);
  add(view, [
    head.element,
    h("div", { class: "columns" }, section("Limits", limits.element), section("Credit", credit.balance.element)),
    section("Journal", credit.journal.element),
  ]);
  head.load();
  limits.load();
  credit.load();
}

function headBlock(id, path, context) {
  const { signal, may, setTitle } = context;
  const block = new Block({ signal, load: () => get(path, {}, { signal }), draw: (one) => {
    setTitle(one.name);
    const { text, tone } = organisationState(one);
    return [
      facts([
        ["Id", String(one.id)],
        ["State", h("span", {}, state(text, tone), one.paused?.reason ? `: ${one.paused.reason}` : "")],
        one.paused && ["Paused since", time(one.paused.since)],
        ["Low balance below", one.low_balance === null ? "never" : number(one.low_balance)],
        ["Since", time(one.created_at)],
      ]),
      h("p", { class: "buttons more" },
        may("operate") && pauseControl(one, path, () => block.load()),
        h("a", { href: `/console/messages?organisation=${id}` }, "Messages"),
        h("a", { href: `/console/reports?organisation=${id}` }, "Reports"),
        h("a", { href: `/console/webhooks?organisation=${id}` }, "Webhooks"),
        h("a", { href: `/console/dead-letters?organisation=${id}` }, "Dead letters")),
    ];
  } });
  return block;
}

function pauseControl(one, path, changed) {
  if (one.paused) {
    return button("Resume", () => ask({
      title: `Resume ${one.name}?`, label: "Resume", text: "Its messages that wait are sent.",
      act: async (_, once) => {
        await post(`${path}/resume`, {}, once);
        changed();
        return `${one.name} goes on.`;
      },
    }));
  }
  return button("Pause", () => ask({
    title: `Pause ${one.name}?`, label: "Pause", danger: true,
    text: "Nothing of it is sent any more. Its messages are accepted and wait.",
    fields: [{ name: "reason", label: "Reason, for those who look later", maxlength: 200 }],
    act: async (values, once) => {
      await post(`${path}/pause`, values.reason ? { reason: values.reason } : {}, once);
      changed();
      return `${one.name} is paused: its messages wait.`;
    },
  }), { danger: true });
}

function limitsBlock(path, { signal, may }) {
  const shown = (value, unit = "") => value === null || value === undefined ? "as for all" : `${number(value)}${unit}`;
  const block = new Block({ signal, load: () => get(`${path}/limits`, {}, { signal }), draw: (found) => [
    facts([
      ["Weight", found.weight === null ? "as for all: 1" : String(found.weight)],
      ["Most messages that wait", shown(found.backlog_max)],
      ["Most accepted a second", found.rate_max === null ? "no limit" : `${found.rate_max}/s`],
    ]),
    may("operate") && h("p", { class: "buttons more" }, button("Change limits", () => ask({
      title: "Limits", label: "Set", text: "Nothing: as for all organisations.",
      fields: [
        { name: "weight", label: "Weight, 0.1 to 100", type: "number", min: 0.1, max: 100, step: "any", value: found.weight ?? "" },
        { name: "backlog_max", label: "Most messages that wait, 1,000 or more", type: "number", min: 1_000, value: found.backlog_max ?? "" },
        { name: "rate_max", label: "Most accepted a second", type: "number", min: 0.1, step: "any", value: found.rate_max ?? "" },
      ],
      act: async (values) => {
        const wanted = Object.entries(values).map(([name, text]) => [name, text === "" ? null : Number(text)]);
        await patch(`${path}/limits`, Object.fromEntries(wanted));
        block.load();
        return "The limits are set.";
      },
    }))),
  ] });
  return block;
}
