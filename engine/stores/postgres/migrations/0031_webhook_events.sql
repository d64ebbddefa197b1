-- The types of the events that an endpoint is told of; NULL: all of them.
-- A notifier of an older version knows nothing of these, and tells such an endpoint of all.
ALTER TABLE webhook_endpoints ADD COLUMN events text[] CHECK (cardinality(events) BETWEEN 1 AND 50);
