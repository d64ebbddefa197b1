-- Idempotency-Keys of calls that PostgreSQL itself answers (those for messages are kept
-- in Redis, beside the messages). Written in the transaction of what they guard: either
-- both are there or neither. `answer` holds no secret: a key is shown once, and what is
-- kept of its answer names it only by its id. It is empty for calls that are safe to repeat
-- by themselves.

CREATE TABLE idempotency (
    scope       text        NOT NULL CHECK (length(scope) BETWEEN 1 AND 100),
    key         text        NOT NULL CHECK (length(key) BETWEEN 1 AND 200),
    fingerprint bytea       NOT NULL,
    status      int         NOT NULL,
    answer      bytea       NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (scope, key)
);
CREATE INDEX idempotency_by_age ON idempotency (at);
