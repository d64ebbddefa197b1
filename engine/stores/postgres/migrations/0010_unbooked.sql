-- Usage that the books could not cover, one row an entry and organisation: PostgreSQL went back, and a
-- top-up or the organisation itself is gone, or a grant. It waits until an operator has put that right
-- (`smsengine books repair`). Rows are never deleted; those with `booked_at` are in the books.
-- No foreign key: the organisation may be missing.
CREATE TABLE unbooked (
    id              bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at              timestamptz NOT NULL DEFAULT now(),
    organisation_id bigint      NOT NULL,
    shard           int         NOT NULL,
    -- The entry of the usage stream; '0-0' for a sum when the books of the shard were closed.
    position        text        NOT NULL,
    kind            text        NOT NULL,
    holder          text        NOT NULL,
    -- Units that were held, captured and released.
    held            bigint      NOT NULL CHECK (held >= 0),
    captured        bigint      NOT NULL CHECK (captured >= 0),
    released        bigint      NOT NULL CHECK (released >= 0),
    booked_at       timestamptz
);
CREATE INDEX unbooked_open ON unbooked (organisation_id) WHERE booked_at IS NULL;
