-- What reports over months read: events counted by the day (UTC) in which their message was accepted. Times are
-- counted in classes, each an eighth of an octave wide (9 %), because counts of classes add up in a hundredth of the
-- time that the digests of `report_quarters` take. In all else the rows are those of `report_minutes`
-- (0006_reports.sql), and so are the ways of `filled`, `report_day_start` and `report_day_filled`. Months whose
-- events were dropped before are in `report_quarters` alone.
CREATE TABLE IF NOT EXISTS report_day_start
(
    from_ms UInt64
)
ENGINE = MergeTree
ORDER BY from_ms;

-- Up to which `from_ms` the rows before it are filled in, and from which month (YYYYMM) on all are.
CREATE TABLE IF NOT EXISTS report_day_filled
(
    until_ms   UInt64,
    from_month UInt32
)
ENGINE = MergeTree
ORDER BY until_ms;

INSERT INTO report_day_start
SELECT if((SELECT count() FROM activity) + (SELECT count() FROM report_quarters) = 0, 0, toUnixTimestamp64Milli(now64(3)) + 60000)
WHERE (SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'activity_to_days') = 0;

CREATE TABLE IF NOT EXISTS report_days
(
    filled          UInt8,
    organisation_id Int64,
    day             Date CODEC(Delta, ZSTD(1)),
    queue           LowCardinality(String),
    country         UInt16,
    provider        LowCardinality(String),
    event           LowCardinality(String),
    events          SimpleAggregateFunction(sum, UInt64),
    segments        SimpleAggregateFunction(sum, UInt64),
    units           SimpleAggregateFunction(sum, UInt64),
    -- How many took the provider so long to answer, and had such an age, by class: floor(8 log2 of microseconds).
    answers         SimpleAggregateFunction(sumMap, Map(UInt16, UInt64)),
    ages            SimpleAggregateFunction(sumMap, Map(UInt16, UInt64))
)
ENGINE = AggregatingMergeTree
PARTITION BY (filled, toYYYYMM(day))
ORDER BY (organisation_id, day, queue, country, provider, event, filled)
SETTINGS non_replicated_deduplication_window = 1000;

CREATE MATERIALIZED VIEW IF NOT EXISTS activity_to_days TO report_days AS
SELECT
    filled,
    organisation_id,
    day,
    queue,
    country,
    provider,
    if(again, 'resent', kind) AS event,
    count() AS events,
    sum(parts) AS segments,
    sum(held) AS units,
    sumMapIf(map(toUInt16(floor(8 * log2(greatest(latency_us, 1)))), toUInt64(1)), latency_us > 0) AS answers,
    sumMapIf(map(toUInt16(floor(8 * log2(greatest(age, 1)))), toUInt64(1)), aged) AS ages
FROM
(
    SELECT
        toUInt8(stream_ms < (SELECT ifNull(max(from_ms), 0) FROM report_day_start)) AS filled,
        organisation_id,
        toDate(accepted_at, 'UTC') AS day,
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
GROUP BY filled, organisation_id, day, queue, country, provider, kind, again;
