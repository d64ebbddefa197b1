-- Every event of every message, one row each; written only by the archiver.
--
-- Partitions are months of acceptance. A message lives for up to seven days and its
-- receipts may be later still, so partitions by day would make eight small parts of each
-- insert; by month an insert makes one, at the turn of a month two. Old months are
-- dropped whole.
--
-- The sort key keeps one message's events together, and its time of acceptance is in its
-- id: a message is found by reading one granule. It also keeps an organisation's days
-- together for the reports.
--
-- Deduplication: each insert brings a token. The window counts blocks a table remembers;
-- without it a token has no effect on a table that is not replicated. (On a replicated
-- table the setting is replicated_deduplication_window.)
CREATE TABLE IF NOT EXISTS activity
(
    at                  DateTime64(6, 'UTC')  CODEC(Delta, ZSTD(1)),
    organisation_id     Int64                 CODEC(Delta, ZSTD(1)),
    -- UUIDv7 as text.
    message_id          String                CODEC(ZSTD(1)),
    accepted_at         DateTime64(6, 'UTC')  CODEC(Delta, ZSTD(1)),
    event               LowCardinality(String),
    queue               LowCardinality(String),
    to                  String                CODEC(ZSTD(1)),
    sender              LowCardinality(String),
    encoding            LowCardinality(String),
    segments            UInt16                CODEC(T64, ZSTD(1)),
    units               UInt32                CODEC(T64, ZSTD(1)),
    attempt             UInt16                CODEC(T64, ZSTD(1)),
    provider            LowCardinality(String),
    provider_message_id String                CODEC(ZSTD(1)),
    code                LowCardinality(String),
    -- Microseconds.
    latency_us          UInt32                CODEC(T64, ZSTD(1)),
    reference           String                CODEC(ZSTD(1)),
    -- 1970 stands for none.
    due_at              DateTime64(6, 'UTC')  CODEC(ZSTD(1)),
    expires_at          DateTime64(6, 'UTC')  CODEC(ZSTD(1)),
    outcome_unknown     Bool,
    -- Where the row stood in the activity stream of its shard, for the audit.
    shard               UInt16,
    stream_ms           UInt64                CODEC(Delta, ZSTD(1)),
    stream_seq          UInt32                CODEC(T64, ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(accepted_at)
ORDER BY (organisation_id, accepted_at, message_id, at)
SETTINGS non_replicated_deduplication_window = 1000;
