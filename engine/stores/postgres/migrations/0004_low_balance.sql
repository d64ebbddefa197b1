-- Below so many usable units (available and granted) an organisation is told so, once each
-- time it falls below; null: never. At most what `units` of an activity row can hold.
ALTER TABLE accounts ADD COLUMN low_balance bigint CHECK (low_balance BETWEEN 1 AND 4000000000);

-- Events of organisations, written in the transaction that brought them about, and deleted
-- when they are known to be on the activity stream of their shard. `id` counts up, and the
-- stream remembers the last one it was given: one that is sent again is passed over there.
CREATE TABLE balance_events (
    id              bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shard           int         NOT NULL,
    organisation_id bigint      NOT NULL REFERENCES accounts,
    event           text        NOT NULL CHECK (event IN ('low_balance')),
    -- Usable units left.
    units           bigint      NOT NULL CHECK (units >= 0),
    at              timestamptz NOT NULL DEFAULT now()
);
