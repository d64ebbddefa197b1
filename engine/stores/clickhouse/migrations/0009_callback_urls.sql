-- The URL that is told of the events of a message, "" for none; written only by the archiver.
ALTER TABLE activity ADD COLUMN IF NOT EXISTS callback_url String DEFAULT '' CODEC(ZSTD(1)) AFTER segment;

-- For a notifier that was away while rows went from Redis to this table: it reads what is behind its place in the
-- stream of a shard. Parts that are there already get the index when they are merged.
ALTER TABLE activity ADD INDEX IF NOT EXISTS stream_ms_range stream_ms TYPE minmax GRANULARITY 1;

-- The attempts that receipts look up have the URL too, because the rows that a receipt becomes are made of them.
ALTER TABLE activity_to_outstanding MODIFY QUERY
SELECT
    halfMD5(concat(toString(provider), ':', if(short = '' AND id != '', '0', short))) AS key,
    toDate(at, 'UTC') AS day,
    row
FROM
(
    SELECT
        provider,
        at,
        arrayJoin(splitByChar(',', if(provider_message_id = '', message_id, provider_message_id))) AS id,
        trim(LEADING '0' FROM lower(id)) AS short,
        if(event = 'sent' OR outcome_unknown,
            toJSONString(tuple(
                event, message_id, attempt, code, segment, toUnixTimestamp64Micro(at), provider,
                provider_message_id, organisation_id, toUnixTimestamp64Micro(accepted_at), queue, to,
                sender, encoding, segments, units, reference, callback_url)),
            toJSONString(tuple(event, message_id, attempt, code, segment))) AS row
    FROM activity
    WHERE provider != ''
      AND (event IN ('sent', 'receipt', 'delivered', 'undelivered') OR outcome_unknown
           OR (event = 'retrying' AND provider_message_id != ''))
);
