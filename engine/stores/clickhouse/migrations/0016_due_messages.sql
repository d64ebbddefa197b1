-- How long a message took to be sent counts from when it was due, where it was given a later time: `due_at` of its `sent`
-- says so, and is 1970 of others and where a version before this one wrote the row, whose age counts from the acceptance
-- still. In all else the views are those of 0006_reports.sql, 0013_report_periods.sql and 0015_report_series.sql; what was
-- counted stays as it was. A version before this one reads and counts by the same views.
ALTER TABLE activity_to_report MODIFY QUERY
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
            toUnixTimestamp64Micro(at) - toUnixTimestamp64Micro(greatest(accepted_at, due_at))))) AS age
    FROM activity
    WHERE activity.event IN ('accepted', 'scheduled', 'retrying', 'sent', 'outcome_unknown',
        'outcome_unknown_released', 'failed', 'expired', 'canceled', 'undelivered', 'delivered')
)
GROUP BY filled, organisation_id, minute, queue, country, provider, kind, again;

CREATE OR REPLACE VIEW report_events AS
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
        toUnixTimestamp64Micro(at) - toUnixTimestamp64Micro(greatest(accepted_at, due_at))))) AS age
FROM activity
WHERE activity.event IN ('accepted', 'scheduled', 'retrying', 'sent', 'outcome_unknown',
    'outcome_unknown_released', 'failed', 'expired', 'canceled', 'undelivered', 'delivered');

CREATE OR REPLACE VIEW report_events_anywhere AS
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
        toUnixTimestamp64Micro(at) - toUnixTimestamp64Micro(greatest(accepted_at, due_at))))) AS age
FROM activity
WHERE activity.event IN ('accepted', 'scheduled', 'retrying', 'sent', 'outcome_unknown',
    'outcome_unknown_released', 'failed', 'expired', 'canceled', 'undelivered', 'delivered');
