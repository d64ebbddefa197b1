-- Organisations, their keys, and the books of their credit.
-- All amounts are integer units. The books are the source of truth.

CREATE TABLE organisations (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text        NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    created_at timestamptz NOT NULL DEFAULT now()
);

-- A key reads smse_<id>_<secret>; only the SHA-256 of its 256-bit random secret is kept.
CREATE TABLE api_keys (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organisation_id bigint      NOT NULL REFERENCES organisations,
    secret_sha256   bytea       NOT NULL CHECK (length(secret_sha256) = 32),
    created_at      timestamptz NOT NULL DEFAULT now(),
    revoked_at      timestamptz
);
CREATE INDEX api_keys_by_organisation ON api_keys (organisation_id);

-- Where every unit of an organisation is. The last constraint is the conservation law:
-- no transaction that breaks it can commit.
CREATE TABLE accounts (
    organisation_id bigint PRIMARY KEY REFERENCES organisations,
    shard           int    NOT NULL,
    topped_up       bigint NOT NULL DEFAULT 0 CHECK (topped_up >= 0),
    available       bigint NOT NULL DEFAULT 0 CHECK (available >= 0),
    granted         bigint NOT NULL DEFAULT 0 CHECK (granted >= 0),
    held            bigint NOT NULL DEFAULT 0 CHECK (held >= 0),
    captured        bigint NOT NULL DEFAULT 0 CHECK (captured >= 0),
    CONSTRAINT conservation CHECK (topped_up = available + granted + held + captured)
);
CREATE INDEX accounts_by_shard ON accounts (shard);

-- The part of `granted` that each holder has; the sum over holders is `granted`.
CREATE TABLE quotas (
    holder          text   NOT NULL,
    organisation_id bigint NOT NULL REFERENCES accounts,
    units           bigint NOT NULL CHECK (units >= 0),
    PRIMARY KEY (organisation_id, holder)
);
CREATE INDEX quotas_by_holder ON quotas (holder);

-- Money in, once per reference.
CREATE TABLE top_ups (
    organisation_id bigint      NOT NULL REFERENCES accounts,
    reference       text        NOT NULL CHECK (length(reference) BETWEEN 1 AND 200),
    units           bigint      NOT NULL CHECK (units > 0),
    at              timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organisation_id, reference)
);

-- Double entry: every movement takes `units` from one place and puts them in another.
-- Never updated, never deleted. `shard` and `position` name the last usage entry of the
-- batch that caused it; for top-ups both are empty and `reference` is the top-up's; when
-- the books of a shard were closed because Redis lost it, `reference` is the cause.
CREATE TABLE journal (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at              timestamptz NOT NULL DEFAULT now(),
    organisation_id bigint      NOT NULL,
    movement        text        NOT NULL CHECK (movement IN
                        ('top-up', 'grant', 'hold', 'capture', 'release', 'return', 'fence', 'reopen')),
    debit           text        NOT NULL CHECK (debit IN
                        ('payments', 'available', 'granted', 'held', 'captured')),
    credit          text        NOT NULL CHECK (credit IN
                        ('available', 'granted', 'held', 'captured')),
    units           bigint      NOT NULL CHECK (units > 0),
    shard           int,
    position        text,
    reference       text,
    CHECK (debit <> credit)
);
CREATE INDEX journal_by_organisation ON journal (organisation_id, id);

-- How far the ledger has applied each shard's usage stream, written in the transaction
-- that applies it: that makes every entry count exactly once. `generation` names the
-- life of Redis that the positions belong to, `losses` counts the lives that were lost.
CREATE TABLE shards (
    shard      int  PRIMARY KEY,
    generation text NOT NULL,
    position   text NOT NULL DEFAULT '0-0',
    losses     int  NOT NULL DEFAULT 0
);

-- Answers to holders that are committed but perhaps not yet in their inbox. Sent after
-- the commit, deleted with the next one; a ledger that starts sends what it finds again,
-- and holders ignore answers they have had.
CREATE TABLE answers (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shard   int   NOT NULL,
    holder  text  NOT NULL,
    payload bytea NOT NULL
);

-- Requests that wait until recalled quota has come back, one after another per
-- organisation; `recalled` are the holders that were asked.
CREATE TABLE waiting_requests (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shard           int    NOT NULL,
    holder          text   NOT NULL,
    epoch           bigint NOT NULL,
    number          bigint NOT NULL,
    organisation_id bigint NOT NULL,
    wanted          bigint NOT NULL,
    needed          bigint NOT NULL,
    waiting         bigint NOT NULL
);
CREATE INDEX waiting_requests_by_organisation ON waiting_requests (organisation_id, id);
