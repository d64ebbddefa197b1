-- For lists of messages by recipient or reference: which granules have none of them. Parts that were written before
-- are read without it until they are merged.
ALTER TABLE activity ADD INDEX IF NOT EXISTS by_to to TYPE bloom_filter(0.01) GRANULARITY 4;

ALTER TABLE activity ADD INDEX IF NOT EXISTS by_reference reference TYPE bloom_filter(0.01) GRANULARITY 4;
