-- The deliveries that have failed before and wait to be made again, by the origin that does not take them: the status
-- names these origins, however many deliveries wait there that nobody has tried yet.
CREATE INDEX webhook_deliveries_failing ON webhook_deliveries (shard, organisation_id, origin, kept_at)
    WHERE failed_at IS NULL AND attempts > 0;
