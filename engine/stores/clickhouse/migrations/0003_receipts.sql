-- What the matching of receipts looks up and leaves behind: see engine/matcher.py.

-- For `receipt`: the number of the segment that has arrived, from 1; 0: none has yet.
ALTER TABLE activity ADD COLUMN IF NOT EXISTS segment UInt16 DEFAULT 0 CODEC(T64, ZSTD(1)) AFTER outcome_unknown;

-- Attempts by the id that the carrier gave them, and what receipts have made of them since.
--
-- `key` is halfMD5('<provider>:<id>'), the id in the normal form of engine/receipt_ids.py:
-- lower case, no leading zeros. A fixed eight bytes instead of names and ids of all kinds
-- make the index a fifth of the size and a look-up twice as fast; `row` has the ids, so
-- that two which share a hash are told apart.
-- `row` is a JSON array, `engine.carriers.Filed`: a look-up reads one column instead of
-- twenty. An attempt that the carrier gave several ids, one for each segment, is filed
-- under each; one without an id under the message's own.
--
-- A batch of receipts asks for thousands of keys that lie anywhere: hence granules of few
-- rows in small compressed blocks. Days are dropped whole.
CREATE TABLE IF NOT EXISTS outstanding
(
    key UInt64 CODEC(NONE),
    day Date   CODEC(ZSTD(1)),
    row String CODEC(ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY day
ORDER BY key
TTL day + INTERVAL 8 DAY
SETTINGS index_granularity = 64, min_compress_block_size = 4096, ttl_only_drop_parts = 1,
         non_replicated_deduplication_window = 1000;

CREATE MATERIALIZED VIEW IF NOT EXISTS activity_to_outstanding TO outstanding AS
SELECT
    halfMD5(concat(toString(provider), ':', if(short = '' AND id != '', '0', short))) AS key,
    toDate(at, 'UTC') AS day,
    row
FROM
(
    SELECT
        provider,
        at,
        arrayJoin(splitByChar(',', if(provider_message_id = '', message_id, provider_message_id))) AS id,
        trim(LEADING '0' FROM lower(id)) AS short,
        if(event = 'sent' OR outcome_unknown,
            toJSONString(tuple(
                event, message_id, attempt, code, segment, toUnixTimestamp64Micro(at), provider,
                provider_message_id, organisation_id, toUnixTimestamp64Micro(accepted_at), queue, to,
                sender, encoding, segments, units, reference)),
            toJSONString(tuple(event, message_id, attempt, code, segment))) AS row
    FROM activity
    WHERE provider != ''
      AND (event IN ('sent', 'receipt', 'delivered', 'undelivered') OR outcome_unknown
           OR (event = 'retrying' AND provider_message_id != ''))
);

-- Of attempts that carriers gave an id: where they are filed, by the message's own id, for
-- carriers whose receipts name only that. Ids begin with the time, so this costs little.
CREATE TABLE IF NOT EXISTS outstanding_messages
(
    message_id String CODEC(ZSTD(1)),
    day        Date   CODEC(ZSTD(1)),
    key        UInt64 CODEC(NONE)
)
ENGINE = MergeTree
PARTITION BY day
ORDER BY message_id
TTL day + INTERVAL 8 DAY
SETTINGS index_granularity = 1024, ttl_only_drop_parts = 1, non_replicated_deduplication_window = 1000;

CREATE MATERIALIZED VIEW IF NOT EXISTS activity_to_outstanding_messages TO outstanding_messages AS
SELECT
    message_id,
    toDate(at, 'UTC') AS day,
    halfMD5(concat(toString(provider), ':', if(short = '' AND id != '', '0', short))) AS key
FROM
(
    SELECT
        message_id,
        at,
        provider,
        splitByChar(',', provider_message_id)[1] AS id,
        trim(LEADING '0' FROM lower(id)) AS short
    FROM activity
    WHERE event = 'sent' AND provider_message_id != ''
);

-- Messages that are to be sent again when a receipt says that they did not arrive, JSON
-- (engine.records.Message), by the attempt that took them. Their texts are here and nowhere
-- else in ClickHouse, and go within a day of the end of their validity.
CREATE TABLE IF NOT EXISTS kept_messages
(
    message_id String,
    attempt    UInt16,
    expires_at DateTime('UTC'),
    message    String CODEC(ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY toDate(expires_at, 'UTC')
ORDER BY (message_id, attempt)
TTL expires_at
SETTINGS index_granularity = 256, ttl_only_drop_parts = 1, non_replicated_deduplication_window = 1000;

-- Receipts that were given up: no message was found for them, or more than one.
CREATE TABLE IF NOT EXISTS receipts_unmatched
(
    at                  DateTime64(6, 'UTC'),
    provider            LowCardinality(String),
    provider_message_id String,
    message_id          String,
    state               LowCardinality(String),
    code                LowCardinality(String),
    to                  String,
    -- unknown: no message has the id; recipient: one has, sent to another number;
    -- ambiguous: several have.
    reason              LowCardinality(String),
    given_up_at         DateTime('UTC')
)
-- Given up twice, because the engine was killed in between: once when parts are merged.
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (provider, at, provider_message_id, message_id, state, code)
TTL toDateTime(at) + INTERVAL 30 DAY;
