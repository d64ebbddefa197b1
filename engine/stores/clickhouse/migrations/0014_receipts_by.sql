-- How the receipts of an attempt name it: 0: by the id that the provider gave or by the message's own, as far as is
-- known; 1: by the provider's alone; 2: not at all (engine/records.py). Written only by the archiver; 0 where a version
-- before this one wrote the row. What no receipt can ask for is not filed.
ALTER TABLE activity ADD COLUMN IF NOT EXISTS receipts_by UInt16 DEFAULT 0 CODEC(T64, ZSTD(1)) AFTER text;

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
    WHERE provider != '' AND receipts_by != 2
      AND (event IN ('sent', 'receipt', 'delivered', 'undelivered') OR outcome_unknown
           OR (event = 'retrying' AND provider_message_id != ''))
);

ALTER TABLE activity_to_outstanding_messages MODIFY QUERY
SELECT
    message_id,
    toDate(at, 'UTC') AS day,
    halfMD5(concat(toString(provider), ':', if(short = '' AND id != '', '0', short))) AS key
FROM
(
    SELECT
        message_id,
        at,
        provider,
        splitByChar(',', provider_message_id)[1] AS id,
        trim(LEADING '0' FROM lower(id)) AS short
    FROM activity
    WHERE event = 'sent' AND provider_message_id != '' AND receipts_by = 0
);
