-- What reports over months read: events counted by the days and months of a time zone in which their message was
-- accepted, each organisation by itself and all together. They replace `report_days`, which counts days of UTC alone
-- and whose view costs each insert as much as the activity itself. The archiver counts these once a minute, from the
-- rows that have been archived since (engine/stores/clickhouse/report_periods.py).
--
-- `activity` finds such rows by where they stood in their stream (`stream_ms_range`, 0009_callback_urls.sql), and passes
-- over those of old days, also in parts from before that index.
ALTER TABLE activity MATERIALIZE INDEX stream_ms_range;

-- The rows of the activity that reports count, as they count them (see `activity_to_report` in 0006_reports.sql).
CREATE VIEW IF NOT EXISTS report_events AS
SELECT
    stream_ms,
    organisation_id,
    accepted_at,
    queue,
    toUInt16OrZero(substring(to, 2, 3)) AS three,
    toUInt16OrZero(substring(to, 3, 3)) AS area,
    multiIf(
        three < 200,
        if(area IN (
            204, 226, 236, 242, 246, 249, 250, 257, 263, 264, 268, 273, 284, 289, 306, 340, 343, 345, 354, 365,
            367, 368, 382, 403, 416, 418, 428, 431, 437, 438, 441, 450, 468, 473, 474, 506, 514, 519, 548, 579,
            581, 584, 587, 600, 604, 613, 622, 633, 639, 647, 649, 658, 664, 670, 671, 672, 683, 684, 705, 709,
            721, 742, 753, 758, 767, 778, 780, 782, 784, 787, 807, 809, 819, 825, 829, 849, 867, 868, 869, 873,
            876, 879, 902, 905, 939, 942), toUInt16(1000 + area), toUInt16(three > 0)),
        three >= 700 AND three < 800,
        toUInt16(if(intDiv(three, 10) IN (76, 77), 77, 7)),
        intDiv(three, 10) IN (
            20, 27, 30, 31, 32, 33, 34, 36, 39, 40, 41, 43, 44, 45, 46, 47, 48, 49, 51, 52, 53, 54, 55, 56, 57,
            58, 60, 61, 62, 63, 64, 65, 66, 81, 82, 84, 86, 90, 91, 92, 93, 94, 95, 98),
        toUInt16(intDiv(three, 10)),
        three) AS country,
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

-- The time zones in whose days a report was asked for.
CREATE TABLE IF NOT EXISTS report_zones
(
    zone  String,
    since SimpleAggregateFunction(min, Date),
    asked SimpleAggregateFunction(max, Date)
)
ENGINE = AggregatingMergeTree
ORDER BY zone;

CREATE TABLE IF NOT EXISTS report_periods
(
    zone            String,
    -- The counts of a zone that were begun at one time: rows whose place in their stream is before it, milliseconds,
    -- are in the partition `filled` = 1, which is made as a whole; all later ones in `filled` = 0.
    from_ms         UInt64,
    filled          UInt8,
    -- 0: says until when all rows are counted. 1: a day. 2: a month. 3: a quarter of an hour.
    period          UInt8,
    -- 0: all together; by quarters there is nothing else.
    organisation_id Int64 CODEC(Delta, ZSTD(1)),
    -- Of days and months the days since 1970, of quarters the quarters of an hour since then.
    begins          UInt32 CODEC(Delta, ZSTD(1)),
    queue           LowCardinality(String),
    country         UInt16,
    provider        LowCardinality(String),
    event           LowCardinality(String),
    events          SimpleAggregateFunction(sum, UInt64),
    segments        SimpleAggregateFunction(sum, UInt64),
    units           SimpleAggregateFunction(sum, UInt64),
    -- How many took the provider so long to answer, and had such an age, by class: floor(8 log2 of microseconds).
    answers         SimpleAggregateFunction(sumMap, Map(UInt16, UInt64)),
    ages            SimpleAggregateFunction(sumMap, Map(UInt16, UInt64)),
    -- Of `period` 0: rows before this place in their stream are counted, milliseconds.
    until_ms        SimpleAggregateFunction(max, UInt64)
)
ENGINE = AggregatingMergeTree
PARTITION BY (zone, from_ms, filled)
ORDER BY (period, organisation_id, begins, queue, country, provider, event)
SETTINGS non_replicated_deduplication_window = 1000;

-- The previous version reads `report_days`, which nothing writes any more; the table is dropped later. A process of it
-- that starts from now on takes the counts by day for not made yet, and reads those by the quarter of an hour.
DROP VIEW IF EXISTS activity_to_days;

INSERT INTO report_day_filled SELECT max(from_ms), 210601 FROM report_day_start;
