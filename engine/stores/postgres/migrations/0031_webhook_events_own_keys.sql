-- The types of the events that an endpoint is told of; NULL: all of them.
-- A notifier of an older version knows nothing of these, and tells such an endpoint of all.
ALTER TABLE webhook_endpoints ADD COLUMN events text[] CHECK (cardinality(events) BETWEEN 1 AND 50);

-- A key with the scope `admin` looks after the organisation: its keys, endpoints, opt-outs, auto-replies. An engine of
-- an older version finds no scope in it that it knows, and refuses it. Rows that are there satisfy what is wider, so
-- they are not read again.
ALTER TABLE api_keys
    DROP CONSTRAINT api_keys_scopes_check,
    ADD CONSTRAINT api_keys_scopes_check CHECK (
        cardinality(scopes) > 0 AND scopes <@ ARRAY['send', 'read', 'admin']) NOT VALID;
