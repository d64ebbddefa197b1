-- What reports, the planner and the console read: events counted by the minute in which their message was
-- accepted. All events of a message are in the minute of its acceptance, so the counts of one period are those
-- of the same messages, and differences between them say how many messages have which status
-- (engine/activity/reports.py). They replace `activity_minute`, which nothing writes any more; a version before
-- this one may still read it, so it is dropped later.
--
-- Rows that were archived before the view stood are filled in (engine/stores/clickhouse/report_fill.py). Rows
-- whose place in their stream is before `from_ms` are counted in partitions of their own, `filled` = 1, which the
-- filling replaces as a whole, by the view's own statement. `from_ms` is a little after the view is made, so that
-- every row from then on is inserted while the view stands; it is 0 when there are no rows yet. When the script
-- is killed before it has made the view, and runs again, the later `from_ms` holds.
CREATE TABLE IF NOT EXISTS report_start
(
    from_ms UInt64
)
ENGINE = MergeTree
ORDER BY from_ms;

-- Up to which `from_ms` the rows before it are filled in.
CREATE TABLE IF NOT EXISTS report_filled
(
    until_ms UInt64
)
ENGINE = MergeTree
ORDER BY until_ms;

INSERT INTO report_start
SELECT if((SELECT count() FROM activity) = 0, 0, toUnixTimestamp64Milli(now64(3)) + 60000)
WHERE (SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'activity_to_report') = 0;

CREATE TABLE IF NOT EXISTS report_minutes
(
    filled          UInt8,
    organisation_id Int64,
    -- Of the acceptance of the message.
    minute          DateTime('UTC') CODEC(Delta, ZSTD(1)),
    queue           LowCardinality(String),
    -- Calling code; of +1 outside of the United States 1000 and the area code; 77 is Kazakhstan
    -- (engine/activity/countries.py).
    country         UInt16,
    provider        LowCardinality(String),
    -- As in `activity`. `resent` is a `retrying` of a message that a provider had taken before.
    event           LowCardinality(String),
    events          SimpleAggregateFunction(sum, UInt64),
    segments        SimpleAggregateFunction(sum, UInt64),
    units           SimpleAggregateFunction(sum, UInt64),
    -- How long the provider took to answer, microseconds; attempts only.
    answer_us       AggregateFunction(quantilesTDigestIf(0.5, 0.95, 0.99), UInt32, UInt8),
    -- From the acceptance to the event, microseconds; `sent` and `delivered` only.
    age_us          AggregateFunction(quantilesTDigestIf(0.5, 0.95, 0.99), UInt32, UInt8)
)
ENGINE = AggregatingMergeTree
PARTITION BY (filled, toYYYYMM(minute))
ORDER BY (organisation_id, minute, queue, country, provider, event, filled)
SETTINGS non_replicated_deduplication_window = 1000;

-- The same by quarters of an hour, which hours and days of every time zone are made of: a year of them is read
-- in little time.
CREATE TABLE IF NOT EXISTS report_quarters
(
    filled          UInt8,
    organisation_id Int64,
    quarter         DateTime('UTC') CODEC(Delta, ZSTD(1)),
    queue           LowCardinality(String),
    country         UInt16,
    provider        LowCardinality(String),
    event           LowCardinality(String),
    events          SimpleAggregateFunction(sum, UInt64),
    segments        SimpleAggregateFunction(sum, UInt64),
    units           SimpleAggregateFunction(sum, UInt64),
    answer_us       AggregateFunction(quantilesTDigestIf(0.5, 0.95, 0.99), UInt32, UInt8),
    age_us          AggregateFunction(quantilesTDigestIf(0.5, 0.95, 0.99), UInt32, UInt8)
)
ENGINE = AggregatingMergeTree
PARTITION BY (filled, toYYYYMM(quarter))
ORDER BY (organisation_id, quarter, queue, country, provider, event, filled)
SETTINGS non_replicated_deduplication_window = 1000;

CREATE MATERIALIZED VIEW IF NOT EXISTS report_to_quarters TO report_quarters AS
SELECT
    filled,
    organisation_id,
    toStartOfFifteenMinutes(report_minutes.minute) AS quarter,
    queue,
    country,
    provider,
    event,
    sum(report_minutes.events) AS events,
    sum(report_minutes.segments) AS segments,
    sum(report_minutes.units) AS units,
    quantilesTDigestIfMergeState(0.5, 0.95, 0.99)(report_minutes.answer_us) AS answer_us,
    quantilesTDigestIfMergeState(0.5, 0.95, 0.99)(report_minutes.age_us) AS age_us
FROM report_minutes
GROUP BY filled, organisation_id, quarter, queue, country, provider, event;

-- A token reaches these tables because each has a window of its own, and because the insert says
-- deduplicate_blocks_in_dependent_materialized_views = 1 (see 0002_activity_minute.sql).
CREATE MATERIALIZED VIEW IF NOT EXISTS activity_to_report TO report_minutes AS
SELECT
    filled,
    organisation_id,
    minute,
    queue,
    country,
    provider,
    if(again, 'resent', kind) AS event,
    count() AS events,
    sum(parts) AS segments,
    sum(held) AS units,
    quantilesTDigestIfState(0.5, 0.95, 0.99)(latency_us, latency_us > 0) AS answer_us,
    quantilesTDigestIfState(0.5, 0.95, 0.99)(age, aged) AS age_us
FROM
(
    SELECT
        toUInt8(stream_ms < (SELECT ifNull(max(from_ms), 0) FROM report_start)) AS filled,
        organisation_id,
        toStartOfMinute(toDateTime(accepted_at, 'UTC')) AS minute,
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
        activity.event AS kind,
        kind = 'retrying' AND provider_message_id != '' AS again,
        kind IN ('sent', 'delivered') AS aged,
        activity.segments AS parts,
        activity.units AS held,
        latency_us,
        toUInt32(least(4294967295, greatest(0,
            toUnixTimestamp64Micro(at) - toUnixTimestamp64Micro(accepted_at)))) AS age
    FROM activity
    WHERE activity.event IN ('accepted', 'scheduled', 'retrying', 'sent', 'outcome_unknown',
        'outcome_unknown_released', 'failed', 'expired', 'canceled', 'undelivered', 'delivered')
)
GROUP BY filled, organisation_id, minute, queue, country, provider, kind, again;

DROP VIEW IF EXISTS activity_to_minute;
