// The statuses and the events of messages, their colours, and what they mean; and the processes in the engine's status.

const STATUS_TONES = {
  scheduled: "quiet", accepted: "quiet", sent: "good", delivered: "good",
  outcome_unknown: "warn", canceled: "quiet", expired: "bad", failed: "bad", undelivered: "bad",
};
const EVENTS = {
  accepted: ["quiet", "accepted"],
  scheduled: ["quiet", "accepted, to be sent later"],
  sent: ["good", "sent: a provider took it"],
  retrying: ["warn", "to be tried again"],
  failed: ["bad", "failed: no provider takes it"],
  expired: ["bad", "expired: its validity is over"],
  canceled: ["quiet", "canceled by its organisation"],
  outcome_unknown: ["warn", "given up: its outcome is unknown, it is charged"],
  outcome_unknown_released: ["warn", "given up: its outcome is unknown, it is not charged"],
  dead: ["bad", "set aside as a dead letter"],
  receipt: ["quiet", "receipt: on its way"],
  delivered: ["good", "delivered"],
  undelivered: ["bad", "undelivered"],
};

export function messageTone(status) {
  return STATUS_TONES[status] ?? "quiet";
}

export function eventTone(event) {
  return EVENTS[event]?.[0] ?? "quiet";
}

export function eventSentence(event) {
  return EVENTS[event]?.[1] ?? event.replaceAll("_", " ");
}

/** The processes of all nodes. Of a node that was stopped nothing runs any more. */
export function processesOf(status) {
  return (status.nodes ?? []).filter((node) => node.seen !== "stopped").flatMap((node) => node.processes);
}
