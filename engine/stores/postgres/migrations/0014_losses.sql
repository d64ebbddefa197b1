-- What was lost when Redis or PostgreSQL went back, and what was done about it.

-- Accounts that another transaction had locked when the books of their shard were closed. The shard goes on
-- without them; the ledger closes each as soon as its lock is free. Until then nothing of it is booked.
-- No foreign key: it would wait for the lock.
CREATE TABLE unclosed (
    organisation_id bigint  PRIMARY KEY,
    shard           int     NOT NULL,
    -- `RemainingUnits`: units that its messages held when the shard was closed, and how many were new.
    held            bigint  NOT NULL,
    news            bigint  NOT NULL,
    -- What the account held then.
    booked          bigint  NOT NULL,
    reopens         boolean NOT NULL,
    cause           text    NOT NULL
);

-- One row for each shard that lost something. Never deleted.
CREATE TABLE losses (
    id                 bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at                 timestamptz NOT NULL DEFAULT now(),
    shard              int         NOT NULL,
    -- Who went back.
    who                text        NOT NULL CHECK (who IN ('redis', 'postgres', 'both')),
    cause              text        NOT NULL,
    -- What was lost lies after `from_ms` and before `until_ms`, by the clock of Redis, milliseconds since 1970.
    from_ms            bigint      NOT NULL,
    until_ms           bigint      NOT NULL,
    -- Whether the books had charged or held anything there before.
    had_usage          boolean     NOT NULL DEFAULT false,
    -- Units that the close gave back, and units that are held again for messages that were back.
    released           bigint      NOT NULL DEFAULT 0,
    reopened           bigint      NOT NULL DEFAULT 0,
    -- redis: when an audit had taken it up. postgres, both: when the lost usage was rebuilt.
    settled_at         timestamptz,
    -- Of Redis: units that were sent and not charged; messages that were; messages that are gone unsent.
    -- NULL: not known.
    uncharged_units    bigint,
    uncharged_messages bigint,
    gone_messages      bigint
);
CREATE INDEX losses_open ON losses (shard) WHERE settled_at IS NULL;

-- Usage that was rebuilt from the recorded activity, once for each loss and organisation.
CREATE TABLE rebuilt (
    loss_id         bigint      NOT NULL REFERENCES losses,
    organisation_id bigint      NOT NULL,
    at              timestamptz NOT NULL DEFAULT now(),
    -- Units of the recorded events that the books lacked. `released` is below 0 where a close had given
    -- units back whose messages had been sent.
    held            bigint      NOT NULL,
    captured        bigint      NOT NULL,
    released        bigint      NOT NULL,
    messages        bigint      NOT NULL,
    -- How many of the captured units were set aside as unbooked.
    unbooked        bigint      NOT NULL,
    PRIMARY KEY (loss_id, organisation_id)
);

-- Below 0: a release that the rebuilding of usage undoes.
ALTER TABLE unbooked DROP CONSTRAINT unbooked_released_check;
