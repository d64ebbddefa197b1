-- The activity summed by minute of the event: what the reports and the planner read.
--
-- A token reaches this table only because it has a window of its own, and because the
-- insert says deduplicate_blocks_in_dependent_materialized_views = 1: then a block that
-- was stored in `activity` before the server was killed still arrives here when it is
-- sent again, and one that had arrived does not count twice.
CREATE TABLE IF NOT EXISTS activity_minute
(
    organisation_id Int64,
    minute          DateTime('UTC') CODEC(Delta, ZSTD(1)),
    queue           LowCardinality(String),
    event           LowCardinality(String),
    provider        LowCardinality(String),
    code            LowCardinality(String),
    messages        SimpleAggregateFunction(sum, UInt64),
    segments        SimpleAggregateFunction(sum, UInt64),
    units           SimpleAggregateFunction(sum, UInt64),
    -- How long the provider took to answer, microseconds; attempts only.
    latency_us      AggregateFunction(quantilesTDigestIf(0.5, 0.95, 0.99), UInt32, UInt8),
    -- From acceptance to this event, microseconds: of `sent`, what the customer waits for.
    age_us          AggregateFunction(quantilesTDigest(0.5, 0.95, 0.99), UInt64)
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(minute)
ORDER BY (organisation_id, minute, queue, event, provider, code)
SETTINGS non_replicated_deduplication_window = 1000;

CREATE MATERIALIZED VIEW IF NOT EXISTS activity_to_minute TO activity_minute AS
SELECT
    organisation_id,
    toStartOfMinute(toDateTime(at, 'UTC')) AS minute,
    queue,
    event,
    provider,
    code,
    count() AS messages,
    sum(activity.segments) AS segments,
    sum(activity.units) AS units,
    quantilesTDigestIfState(0.5, 0.95, 0.99)(activity.latency_us, activity.latency_us > 0) AS latency_us,
    quantilesTDigestState(0.5, 0.95, 0.99)(
        toUInt64(greatest(0, dateDiff('microsecond', accepted_at, at)))) AS age_us
FROM activity
GROUP BY organisation_id, minute, queue, event, provider, code;
