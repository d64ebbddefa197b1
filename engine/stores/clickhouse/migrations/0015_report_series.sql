-- What reports over months read, in place of `report_periods`: that has no counts of one organisation by the quarter of an
-- hour, so the parts of days at both ends of a report came from `report_quarters`, whose times are digests, which take
-- long to add up; and none by organisation alone. The archiver counts these once a minute, from the rows that have been
-- archived since (engine/stores/clickhouse/report_periods.py).
--
-- Nothing of this version reads or writes `report_periods`. A process of the version before may still do both, so it is
-- dropped later.
CREATE TABLE IF NOT EXISTS report_series
(
    zone            String,
    -- The counts of a zone that were begun at one time: rows whose place in their stream is before it, milliseconds,
    -- are in the partition `filled` = 1, which is made as a whole; all later ones in `filled` = 0.
    from_ms         UInt64,
    filled          UInt8,
    -- 0: says until when all rows are counted. 1: a day. 2: a month. 3: a quarter of an hour, which UTC alone has, for
    -- all zones. 4, 5, 6: the same, of all organisations, by organisation and event only. 7: such ones by the hour, of
    -- UTC alone.
    period          UInt8,
    -- 0: all together.
    organisation_id Int64 CODEC(Delta, ZSTD(1)),
    -- Of days and months the days since 1970, of quarters and hours those since then.
    begins          UInt32 CODEC(Delta, ZSTD(1)),
    -- The organisation in periods 4 to 7, where `organisation_id` is 0: so all of one time are together.
    member          Int64 CODEC(Delta, ZSTD(1)),
    queue           LowCardinality(String),
    country         UInt16,
    provider        LowCardinality(String),
    event           LowCardinality(String),
    events          SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    segments        SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    units           SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    -- How many took the provider so long to answer, and had such an age, by class: floor(8 log2 of microseconds).
    answers         SimpleAggregateFunction(sumMap, Map(UInt16, UInt64)) CODEC(ZSTD(1)),
    ages            SimpleAggregateFunction(sumMap, Map(UInt16, UInt64)) CODEC(ZSTD(1)),
    -- Of `period` 0: rows before this place in their stream are counted, milliseconds.
    until_ms        SimpleAggregateFunction(max, UInt64)
)
ENGINE = AggregatingMergeTree
PARTITION BY (zone, from_ms, filled)
ORDER BY (period, organisation_id, begins, member, queue, country, provider, event)
-- The ends of a report are a few hundred rows of each organisation.
SETTINGS non_replicated_deduplication_window = 1000, index_granularity = 1024;

-- `report_events` (0013_report_periods.sql) without the country, which most reports do not show: to plan a report with it
-- takes ten milliseconds more.
CREATE VIEW IF NOT EXISTS report_events_anywhere AS
SELECT
    stream_ms,
    organisation_id,
    accepted_at,
    queue,
    provider,
    if(activity.event = 'retrying' AND provider_message_id != '', 'resent', toString(activity.event)) AS event,
    segments,
    units,
    latency_us,
    activity.event IN ('sent', 'delivered') AS aged,
    toUInt32(least(4294967295, greatest(0,
        toUnixTimestamp64Micro(at) - toUnixTimestamp64Micro(accepted_at)))) AS age
FROM activity
WHERE activity.event IN ('accepted', 'scheduled', 'retrying', 'sent', 'outcome_unknown',
    'outcome_unknown_released', 'failed', 'expired', 'canceled', 'undelivered', 'delivered');
