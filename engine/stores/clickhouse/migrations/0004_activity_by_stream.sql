-- The few columns that the audit sums, in the order of the activity streams: it then reads what
-- came after a place in a stream, and not the whole table. Parts that are there already get it
-- in the background; until then they are read whole.
ALTER TABLE activity ADD PROJECTION IF NOT EXISTS by_stream
(
    SELECT shard, stream_ms, stream_seq, organisation_id, event, units
    ORDER BY shard, stream_ms, stream_seq
);

ALTER TABLE activity MATERIALIZE PROJECTION by_stream;
