"""The names of all Redis keys.

All keys that one transaction touches carry the shard's hash tag `{s}`, so the same functions run on
one Redis and on a Redis Cluster. The table in `docs/architecture.md` says what lies under each.
"""

from __future__ import annotations

from functools import cache

from engine.records import Queue

# The consumer group in which the workers of a queue share its stream.
GROUP = b"workers"

# `shard_shares` says what they are: whether matchers share the shards, and those that live.
MATCHER_LOCK = b"receipts:lock"
MATCHERS = b"receipts:matchers"
# The same of archivers. `archiver_steps` says what the others are: the plans of blocks that are being stored,
# and the plan of a version that had one archiver.
ARCHIVER_LOCK = b"archiver:lock"
ARCHIVERS = b"archivers"
ARCHIVER_PLANS = b"archiver:plans"
ARCHIVER_PLAN = b"archiver:plan"
# Entries of activity that no archiver could read.
ARCHIVER_UNREADABLE = b"archiver:unreadable"
# Hash: from which id on the activity streams are kept, by their keys: what is before is archived.
ARCHIVER_TRIMMED = b"archiver:trimmed"
# Sorted set: the notifiers that live, by the time until which they do, milliseconds since 1970.
NOTIFIERS = b"webhooks:notifiers"
# The copy of the routing plan, for when PostgreSQL is away.
ROUTING_PLAN = b"routing:plan"
# Hash: when each library of functions was loaded last, by its name, milliseconds since 1970.
FUNCTIONS_LOADED = b"functions:loaded"
# Hash: the number of the formats that each process reads, and when it noted that, by its name.
FORMATS_READ = b"formats:read"
# Hashes: what each node notes of itself, and how fast things move on it, by its name.
NODES = b"nodes"
NODE_FLOWS = b"nodes:flow"


@cache
def queue_key(shard: int, queue: Queue) -> bytes:
    """Stream of the messages that are ready in a queue. The field `m` of an entry is a `Message`, or a bundle
    of several (`engine.bundle_format`)."""
    return b"sms:{%d}:%s" % (shard, queue.encode())


@cache
def wait_key(shard: int, queue: Queue) -> bytes:
    """Hash: what waits behind the queue's stream, a list for each organisation (see functions/queue)."""
    return b"wait:{%d}:%s" % (shard, queue.encode())


@cache
def line_keys(shard: int, queue: Queue) -> tuple[bytes, bytes, bytes, bytes]:
    """The line of a queue: its stream; `wait_key`; a sorted set of the organisations that have a list, by the
    virtual start time of their next message; and one of those that have none and were served ahead."""
    tail = b"{%d}:%s" % (shard, queue.encode())
    return queue_key(shard, queue), wait_key(shard, queue), b"turns:" + tail, b"ahead:" + tail


@cache
def ways_key(shard: int, queue: Queue) -> bytes:
    """Sorted set: of what is put off in a queue, the turns of organisations by what their messages wait
    for."""
    return b"ways:{%d}:%s" % (shard, queue.encode())


@cache
def archiver_lock_key(shard: int) -> bytes:
    """The archiver that has the shard."""
    return b"archiver:{%d}:lock" % shard


@cache
def limits_key(shard: int) -> bytes:
    """Hash: the limits of organisations that are in force, and their buckets (`limit` in functions/queue)."""
    return b"limits:{%d}" % shard


@cache
def due_key(shard: int, queue: Queue) -> bytes:
    """Sorted set of messages that are scheduled or to be tried again, by the time they are due, µs."""
    return b"due:{%d}:%s" % (shard, queue.encode())


@cache
def dead_key(shard: int, queue: Queue) -> bytes:
    """Stream of dead letters: entries that outlived several workers, their units still held."""
    return b"dead:{%d}:%s" % (shard, queue.encode())


@cache
def activity_key(shard: int) -> bytes:
    """Stream of activity. An entry is a batch of rows, field `b`: a MessagePack array32 of `ActivityRow`."""
    return b"activity:{%d}" % shard


@cache
def announced_key(shard: int) -> bytes:
    """Row of the last `BalanceEvent` that is on the shard's activity stream."""
    return b"credit:{%d}:announced" % shard


@cache
def usage_key(shard: int) -> bytes:
    """Stream from holders and workers to the ledger: see `ledger_records.UsageEntry`."""
    return b"credit:{%d}:usage" % shard


@cache
def usage_head_key(shard: int) -> bytes:
    """Hash: what is known of the end of the usage stream."""
    return usage_key(shard) + b":head"


@cache
def held_key(shard: int) -> bytes:
    """Sum of the units held for all messages of this shard."""
    return b"credit:{%d}:held" % shard


@cache
def held_by_key(shard: int) -> bytes:
    """Hash: the units held for the messages of each organisation of this shard."""
    return held_key(shard) + b":by"


@cache
def moved_key(shard: int) -> bytes:
    """List: messages that have moved, while an audit counts the shard (`recount` in functions/queue)."""
    return held_key(shard) + b":moved"


@cache
def generation_key(shard: int) -> bytes:
    """Generation of the shard; it is gone when Redis lost its data."""
    return b"credit:{%d}:generation" % shard


@cache
def holders_key(shard: int) -> bytes:
    """Hash of the holders that are alive: name to the time of the last heartbeat, milliseconds."""
    return b"holders:{%d}" % shard


@cache
def receipts_key(shard: int) -> bytes:
    """Stream of batches of receipts that are not matched to their messages yet."""
    return b"receipts:{%d}" % shard


@cache
def receipts_lock_key(shard: int) -> bytes:
    """The matcher that has the shard."""
    return b"receipts:{%d}:lock" % shard


@cache
def receipts_later_key(shard: int) -> bytes:
    """Sorted set of receipts whose message was not found yet, by the time of the next look-up, µs."""
    return b"receipts:{%d}:later" % shard


@cache
def receipts_applied_key(shard: int) -> bytes:
    """Hash: who may record what receipts say on this shard's activity stream, and what was recorded last."""
    return b"receipts:{%d}:applied" % shard


@cache
def receipts_unreadable_key(shard: int) -> bytes:
    """Stream of entries of receipts that nobody could read."""
    return b"receipts:{%d}:unreadable" % shard


@cache
def webhook_events_key(shard: int) -> bytes:
    """Stream of batches of events that organisations are told and that are no rows of activity
    (`WebhookEvent`)."""
    return b"webhooks:{%d}" % shard


@cache
def webhook_positions_key(shard: int) -> bytes:
    """Hash: how far notifiers have settled the activity stream and the stream of events of a shard."""
    return b"webhooks:{%d}:settled" % shard


@cache
def webhook_lock_key(shard: int) -> bytes:
    """The owner of the lease of a shard's webhooks."""
    return b"webhooks:{%d}:lock" % shard


def webhook_made_key(shard: int, endpoint_id: int) -> bytes:
    """List of the last deliveries that an endpoint took, the newest first: a `MadeDelivery` each."""
    return b"webhooks:{%d}:made:%d" % (shard, endpoint_id)


def rate_key(provider: str) -> bytes:
    """Slots of a provider with a throughput (throughput.lua). It belongs to no shard."""
    return b"rate:{%s}" % provider.encode()


def rate_wide_key(provider: str) -> bytes:
    """By which span slots of a provider are given while a worker does not know the clock of Redis well."""
    return b"rate:{%s}:wide" % provider.encode()


def problems_key(provider: str) -> bytes:
    """Hash: how often a provider sent something of each kind that was not understood, and when last."""
    return b"problems:{%s}" % provider.encode()


def problem_hour_key(provider: str, hour: int) -> bytes:
    """Hash: the same for one hour since 1970, by kind and minute."""
    return b"problems:{%s}:hour:%d" % (provider.encode(), hour)


def problem_samples_key(provider: str, kind: str) -> bytes:
    """List of the last samples of one kind, the newest first."""
    return b"problems:{%s}:samples:%s" % (provider.encode(), kind.encode())


def holder_key(shard: int, holder: str) -> bytes:
    """Hash of one holder: its epoch, the last sequence it flushed, and the outcome of that."""
    return b"holder:{%d}:%s" % (shard, holder.encode())


def inbox_key(shard: int, holder: str) -> bytes:
    """Stream from the ledger to one holder: grants, refusals and recalls."""
    return b"credit:{%d}:inbox:%s" % (shard, holder.encode())


def admin_idempotency_key(key: str) -> bytes:
    """The same of a key of an admin call. It belongs to no shard."""
    return b"idempotency:admin:%s" % key.encode()


def idempotency_key(shard: int, organisation_id: int, key: str) -> bytes:
    """What an idempotency key of an organisation was first used for; it expires."""
    return b"idempotency:{%d}:%d:%s" % (shard, organisation_id, key.encode())


# Inbound messages are few, and all parts of one must meet: they have one slot, and belong to no shard.
# Stream of the parts that nobody has put together and stored yet.
INBOUND = b"inbound:{all}"
# Sorted set: digests of parts, by the time until which one that comes again is known, milliseconds.
INBOUND_SEEN = b"inbound:{all}:seen"
# Stream of entries that nobody could read.
INBOUND_UNREADABLE = b"inbound:{all}:unreadable"
# The active inbox's lease.
INBOUND_LOCK = b"inbound:{all}:lock"
# Stream of the replies that no ingest process has sent yet, and the lease of the one that sends them.
AUTO_REPLIES = b"inbound:{all}:replies"
AUTO_REPLIES_LOCK = b"inbound:{all}:replies:lock"


def replied_key(organisation_id: int, number: str) -> bytes:
    """Set: the messages of a number that an organisation has answered within the last hour."""
    return b"inbound:{all}:replied:%d:%b" % (organisation_id, number.encode())


def console_session_key(digest: bytes) -> bytes:
    """A session of the console (`engine.console.records.Session`), by the digest of its id; it expires."""
    return b"console:session:%s" % digest.hex().encode()


def console_sessions_key(owner: str) -> bytes:
    """List of the digests of the sessions of one key, the newest first; it expires."""
    return b"console:sessions:%s" % owner.encode()
