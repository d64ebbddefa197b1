"""Rule: every metric there is, and which counter of which record it shows.

A metric that is not here is not shown, and one that is here is explained in docs/metrics.md. Labels are
bounded: queues, roles, providers of the configuration, codes that stand in this program. Nothing has an
organisation, a message or a number as a label.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from engine.histogram import ANSWER_S, DELIVERED_S, ROUND_TRIP_S, SENT_S

Kind = Literal["counter", "gauge", "histogram"]


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """One metric: a family of series that differ in their labels."""

    # Without the `_total` of a counter.
    name: str
    kind: Kind
    # One sentence without its full stop.
    meaning: str
    labels: tuple[str, ...] = ()
    # Of a histogram: its upper bounds, seconds.
    bounds_s: tuple[float, ...] = ()
    # How gauges of several processes with the same labels become one.
    across: Literal["sum", "max"] = "sum"


class Place(NamedTuple):
    """Where a counter of a record is shown: a metric, and labels beside those of the record."""

    metric: str
    labels: dict[str, str] = {}


def _counter(name: str, meaning: str, *labels: str) -> Metric:
    return Metric(name=f"smsengine_{name}", kind="counter", meaning=meaning, labels=labels)


def _gauge(name: str, meaning: str, *labels: str, across: Literal["sum", "max"] = "sum") -> Metric:
    return Metric(name=f"smsengine_{name}", kind="gauge", meaning=meaning, labels=labels, across=across)


def _histogram(name: str, meaning: str, bounds_s: tuple[float, ...], *labels: str) -> Metric:
    return Metric(
        name=f"smsengine_{name}", kind="histogram", meaning=meaning, labels=labels, bounds_s=bounds_s
    )


_MESSAGES = (
    _counter("messages_accepted", "Messages that were accepted, also those with a later time", "queue"),
    _counter(
        "messages_refused", "Messages that were refused by themselves, by the code of the problem", "code"
    ),
    _counter("messages_sent", "Messages that a provider took", "queue"),
    _counter("messages_failed", "Messages that ended because no provider takes them", "queue"),
    _counter("messages_expired", "Messages whose validity ended before a provider took them", "queue"),
    _counter(
        "messages_outcome_unknown", "Messages that ended after too many sends of unknown outcome", "queue"
    ),
    _counter("messages_dead", "Messages that became dead letters", "queue"),
    _counter("messages_retried", "Attempts that failed for now, and were followed by another", "queue"),
    _counter(
        "messages_hedged", "Attempts given up early, for another provider, because no answer came", "queue"
    ),
    _counter("messages_put_off", "Times that a message was put off because no provider had room", "queue"),
    _counter("messages_delivered", "Messages of which a receipt says that they arrived", "queue"),
    _counter("messages_undelivered", "Messages of which a receipt says that they did not arrive", "queue"),
    _counter("messages_sent_again", "Messages that went back to their queue because of a receipt"),
    _histogram(
        "accepted_to_sent_seconds",
        "From the acceptance of a message, or its `send_at`, until a provider took it",
        SENT_S,
        "queue",
    ),
    _histogram(
        "accepted_to_delivered_seconds",
        "From the acceptance of a message until it arrived, by its receipt",
        DELIVERED_S,
        "queue",
    ),
    _gauge("messages_in_hand", "Messages that workers have taken and not settled", "queue"),
)

_QUEUES = (
    _gauge(
        "queue_messages",
        "Messages of a queue by state: waiting, in_hand, due, dead, paused (part of waiting)",
        "queue",
        "state",
    ),
    _gauge(
        "queue_oldest_age_seconds",
        "Age of the oldest message that waits or is in hand and is not paused",
        "queue",
    ),
)

_PROVIDERS = (
    _counter("provider_sends", "Attempts that were begun", "provider", "queue"),
    _counter(
        "provider_verdicts", "Answers of a provider to attempts, by verdict", "provider", "queue", "verdict"
    ),
    _histogram(
        "provider_answer_seconds",
        "From the begin of an attempt to the verdict",
        ANSWER_S,
        "provider",
        "queue",
    ),
    _gauge("provider_in_flight", "Attempts that wait for their verdict", "provider", "queue"),
    _gauge("provider_waiting_messages", "Messages in hand that wait for this provider", "provider", "queue"),
    _gauge(
        "provider_circuits",
        "Workers by the state of their circuit breaker: closed, open, half-open",
        "provider",
        "queue",
        "state",
    ),
    _gauge(
        "provider_throughput",
        "Segments a second that the provider may be sent; absent without a limit",
        "provider",
        across="max",
    ),
    _gauge("provider_paused", "1 while an operator has paused the provider", "provider", across="max"),
    _gauge(
        "provider_problems_last_hour", "What providers sent in the last 60 minutes and was not understood"
    ),
)

_SMPP = (
    _counter("smpp_rebinds", "Sessions bound again after a loss", "provider"),
    _counter("smpp_binds_refused", "Binds that the provider answered with an error", "provider"),
    _counter("smpp_sessions_lost", "Bound sessions that ended though nobody here wished it", "provider"),
    _counter("smpp_throttled", "Submits answered ESME_RTHROTTLED or ESME_RMSGQFUL", "provider"),
    _counter("smpp_timeouts", "Submits without an answer in time", "provider"),
    _counter("smpp_late_responses", "Answers to nothing that waits for one", "provider"),
    _counter("smpp_wrong_pdus", "PDUs that break the protocol", "provider"),
    _counter("smpp_unknown_commands", "Requests that a client does not serve", "provider"),
    _counter("smpp_generic_nacks", "Answers generic_nack", "provider"),
    _counter("smpp_receipts", "Receipts taken and acknowledged", "provider"),
    _counter("smpp_receipts_refused", "Receipts that the provider was asked to send again", "provider"),
    _counter("smpp_receipts_nameless", "Receipts without an id", "provider"),
    _counter("smpp_receipts_unknown_state", "Receipts with a state that nobody knows", "provider"),
    _counter(
        "smpp_receipts_unmarked", "Messages from handsets with a text in the form of a receipt", "provider"
    ),
    _counter("smpp_mo_dropped", "Messages from handsets, acknowledged and dropped", "provider"),
    _counter("smpp_mo_kept", "Messages from handsets, or parts of them, that are kept", "provider"),
    _counter(
        "smpp_mo_refused", "Messages from handsets that the provider was asked to send again", "provider"
    ),
    _counter("smpp_segments_unpaid", "Segments sent beyond those counted at intake", "provider"),
)

_RECEIPTS = (
    _counter("receipts_stored", "Receipts that were put into Redis"),
    _counter("receipts_refused", "Receipts whose provider was asked to send them again"),
    _counter("receipts_matched", "Receipts whose message was found", "provider"),
    _counter(
        "receipts_unmatched",
        "Receipts given up, by reason: unknown, recipient, ambiguous",
        "provider",
        "reason",
    ),
    _counter("receipts_recorded_rows", "Rows of activity that said something new because of a receipt"),
    _counter("receipts_set_aside", "Times that a receipt was put off because its message was not found yet"),
    _counter("receipts_handed_on", "Receipts that went to the matcher which decides about their message"),
    _gauge("receipts_waiting_entries", "Entries of receipts that are not matched yet"),
    _gauge("receipts_waiting_later", "Receipts that are set aside until later"),
    _gauge("receipts_oldest_age_seconds", "Age of the oldest entry of receipts that is not matched yet"),
)

_INBOUND = (
    _counter("inbound_stored", "Messages that recipients wrote, stored"),
    _counter("inbound_unrouted", "Of these, messages to a number that no route has"),
    _counter("inbound_stops", "Recipients that were opted out, as they wrote"),
    _counter("inbound_starts", "Recipients that may have messages again, as they wrote"),
    _counter(
        "inbound_replies",
        "Replies to STOP, START and HELP, by outcome: sent, refused, late, held_back",
        "outcome",
    ),
)

_CREDIT = (
    _counter("submissions", "Submissions that asked for credit"),
    _counter("credit_waits", "Submissions that waited for the ledger"),
    _counter("credit_waits_again", "Submissions that waited for the ledger a second time"),
    _counter("ledger_answers", "Answers of the ledger to holders, by kind: grant, refusal, recall", "kind"),
    _gauge("ledger_lag_seconds", "By how much the books are behind the usage stream in the worst shard"),
    _gauge("unbooked_organisations", "Organisations that are suspended because usage of theirs is unbooked"),
    _gauge("unbooked_units", "Units of usage that is not in the books"),
    _gauge("shards_to_rebuild", "Shards of which PostgreSQL lost usage that waits to be rebuilt"),
    _gauge("uncharged_units", "Units sent and not charged because Redis lost data in the last seven days"),
)

_ACTIVITY = (
    _counter("archived_rows", "Rows of activity moved to ClickHouse"),
    _counter("archived_blocks", "Blocks that these rows were in"),
    _counter("archived_unreadable_entries", "Entries of activity set aside because nobody can read them"),
    _gauge("activity_waiting_entries", "Entries of activity that are not in ClickHouse yet"),
    _gauge(
        "activity_oldest_age_seconds", "Age of the oldest entry of activity that is not in ClickHouse yet"
    ),
    _gauge("redis_memory_bytes", "Memory that Redis uses, in steps of 2**20"),
    _gauge(
        "redis_memory_limit_bytes", "`maxmemory` of Redis, 0 without one; from 90 % on messages are refused"
    ),
    _gauge("redis_memory_waiting_bytes", "Of it, what activity and receipts take that wait for ClickHouse"),
    _gauge(
        "reports_behind_seconds",
        "How old the newest events are that are counted for long reports; these add what came after",
    ),
    _gauge(
        "reports_filled_ratio",
        "Time zones that are not counted yet, or not as this version counts, whose long reports are slower: "
        "the part that is, from 0 to 1",
        "time_zone",
    ),
)

_WEBHOOKS = (
    _counter("webhook_events", "Events that an endpoint or a callback URL is told of"),
    _counter(
        "webhook_events_caught_up",
        "Those of them that were read in ClickHouse, because they came there first",
    ),
    _counter(
        "webhook_attempts", "Deliveries that were tried, by outcome: delivered, again, failed", "outcome"
    ),
    _counter("webhook_deliveries_kept", "Times that a delivery was kept in PostgreSQL, to be tried later"),
    _counter("webhook_deliveries_failed", "Deliveries that have failed for good"),
    _gauge("webhook_deliveries_waiting", "Deliveries that wait in PostgreSQL, counted once a minute"),
    _gauge("webhook_deliveries_in_hand", "Deliveries in the memory of notifiers"),
    _gauge("webhook_open_circuits", "Origins of organisations that are not sent to because they fail"),
    _gauge(
        "webhook_lag_seconds",
        "Age of the oldest event that was read and is neither delivered nor kept",
        across="max",
    ),
)

_HTTP = (
    _counter("http_requests", "Requests that were answered, by HTTP status", "status"),
    _counter("http_refusals", "Requests that were answered with a problem as a whole, by its code", "code"),
)

_PROCESSES = (
    _counter("process_cpu_seconds", "CPU time of a process, user and system", "role", "process"),
    _counter(
        "process_busy_seconds",
        "Time in which the loop of a process had work: it was on a CPU, or waited for one",
        "role",
        "process",
    ),
    _gauge("process_resident_memory_bytes", "Resident memory of a process", "role", "process"),
    _gauge(
        "process_start_time_seconds",
        "When a process began, seconds since 1970",
        "role",
        "process",
        across="max",
    ),
    _histogram(
        "process_loop_lag_seconds",
        "How late a timer comes, so how long an answer waits for the loop",
        ROUND_TRIP_S,
        "role",
    ),
    _histogram(
        "store_round_trip_seconds",
        "From a call to a store to its answer; no calls that wait for work",
        ROUND_TRIP_S,
        "store",
    ),
    _gauge("processes", "Processes that are alive", "role"),
    _counter("autoscale_changes", "Changes by autoscaling, by direction: up, down", "queue", "direction"),
    _gauge("autoscale_processes", "Workers that autoscaling wants of a queue; absent without it", "queue"),
    _gauge(
        "autoscale_concurrency",
        "Sends in flight in one worker that autoscaling wants of a queue; absent without it",
        "queue",
        across="max",
    ),
    _gauge("processes_wanted", "Processes that the supervisor keeps, alive or not", "role"),
    _counter(
        "process_restarts",
        "Processes started in the place of one that had died, since the supervisor started",
        "role",
        "process",
    ),
    _gauge("status_part_up", "1 when this part of the status could be read for this scrape", "part"),
    _gauge("build_info", "Always 1; the version of the process that answers", "version"),
)

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        *_MESSAGES, *_QUEUES, *_PROVIDERS, *_SMPP, *_RECEIPTS, *_INBOUND, *_CREDIT, *_ACTIVITY, *_WEBHOOKS,
        *_HTTP, *_PROCESSES,
    )
}  # fmt: skip

_SMPP_COUNTERS = {m.name.removeprefix("smsengine_smpp_"): Place(m.name) for m in _SMPP}

# By the line of the log that a record is watched under (`engine.boot.counter_log`), by its counter. A counter
# of None is shown in another metric, with more labels.
RECORDS: dict[str, dict[str, Place | None]] = {
    "messages accepted": {
        "express": Place("smsengine_messages_accepted", {"queue": "express"}),
        "normal": Place("smsengine_messages_accepted", {"queue": "normal"}),
    },
    "messages ended": {
        "sent": Place("smsengine_messages_sent"),
        "failed": Place("smsengine_messages_failed"),
        "expired": Place("smsengine_messages_expired"),
        "outcome_unknown": Place("smsengine_messages_outcome_unknown"),
        "dead": Place("smsengine_messages_dead"),
        "retried": Place("smsengine_messages_retried"),
        "hedged": Place("smsengine_messages_hedged"),
        "put_off": Place("smsengine_messages_put_off"),
    },
    "provider verdicts": {
        kind: Place("smsengine_provider_verdicts", {"verdict": kind})
        for kind in ("accepted", "temporary", "throttled", "permanent", "unknown")
    },
    "provider traffic": {**_SMPP_COUNTERS},
    "inbound stored": {
        "stored": Place("smsengine_inbound_stored"),
        "unrouted": Place("smsengine_inbound_unrouted"),
        "stopped": Place("smsengine_inbound_stops"),
        "started": Place("smsengine_inbound_starts"),
        "replies_held_back": Place("smsengine_inbound_replies", {"outcome": "held_back"}),
    },
    "auto-replies": {
        outcome: Place("smsengine_inbound_replies", {"outcome": outcome})
        for outcome in ("sent", "refused", "late")
    },
    "receipts stored": {
        "kept": Place("smsengine_receipts_stored"),
        "refused": Place("smsengine_receipts_refused"),
    },
    "receipts matched": {
        "matched": None,
        "recorded": Place("smsengine_receipts_recorded_rows"),
        "sent_again": Place("smsengine_messages_sent_again"),
        "set_aside": Place("smsengine_receipts_set_aside"),
        "handed_on": Place("smsengine_receipts_handed_on"),
        "unknown": None,
        "recipient": None,
        "ambiguous": None,
    },
    "archived": {
        "rows": Place("smsengine_archived_rows"),
        "blocks": Place("smsengine_archived_blocks"),
        "unreadable": Place("smsengine_archived_unreadable_entries"),
    },
    "webhook events": {
        "events": Place("smsengine_webhook_events"),
        "caught_up": Place("smsengine_webhook_events_caught_up"),
    },
    "webhook attempts": {
        outcome: Place("smsengine_webhook_attempts", {"outcome": outcome})
        for outcome in ("delivered", "again", "failed")
    },
    "webhook deliveries kept": {
        "kept": Place("smsengine_webhook_deliveries_kept"),
        "failed": Place("smsengine_webhook_deliveries_failed"),
    },
    "credit found": {
        "submissions": Place("smsengine_submissions"),
        "waited": Place("smsengine_credit_waits"),
        "waited_again": Place("smsengine_credit_waits_again"),
    },
    "ledger answers": {
        kind: Place("smsengine_ledger_answers", {"kind": kind}) for kind in ("grant", "refusal", "recall")
    },
}
