-- What operators changed. A change in PostgreSQL and its record are in one transaction.
-- Records are added and never changed or removed.
CREATE TABLE changes (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at              timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- NULL: the key of the configuration.
    key_id          bigint,
    key_name        text        NOT NULL,
    address         text        NOT NULL,
    request_id      text        NOT NULL,
    action          text        NOT NULL,
    path            text        NOT NULL,
    organisation_id bigint,
    outcome         text        NOT NULL CHECK (outcome IN ('done', 'begun', 'refused', 'unknown')),
    -- Of a change outside of PostgreSQL: the record that says that it was begun.
    begun_id        bigint REFERENCES changes,
    before          jsonb,
    after           jsonb
);
CREATE INDEX changes_by_organisation ON changes (organisation_id, id) WHERE organisation_id IS NOT NULL;
CREATE INDEX changes_by_key ON changes (key_name, id);

CREATE FUNCTION changes_stay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'records of changes are never changed or removed';
END $$;
CREATE TRIGGER changes_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON changes
    FOR EACH STATEMENT EXECUTE FUNCTION changes_stay();
