-- What recipients wrote: see engine/inbound/inbox.py.
CREATE TABLE IF NOT EXISTS inbound_messages
(
    -- 0: no route has the number.
    organisation_id Int64,
    at              DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    id              String,
    provider        LowCardinality(String),
    sender          String,
    recipient       String,
    text            String CODEC(ZSTD(1)),
    keyword         String,
    action          LowCardinality(String),
    -- How many parts never came.
    missing_parts   UInt8
)
-- Stored twice, because the engine was killed in between: once when parts are merged.
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (organisation_id, at, id);
