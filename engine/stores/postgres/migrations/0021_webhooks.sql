-- Where organisations are told what becomes of their messages. An endpoint that is removed stays as a row, so that
-- notifiers learn of it by its version.
CREATE TABLE webhook_endpoints (
    id              bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organisation_id bigint      NOT NULL REFERENCES organisations,
    -- '' stands for the callback URLs of messages: its secrets sign what goes there.
    url             text        NOT NULL CHECK (length(url) <= 2000),
    -- Deliveries are signed with it, so it is kept as it is.
    secret          bytea       NOT NULL,
    -- The secret before, which signs as well until then.
    previous_secret bytea,
    previous_until  timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now(),
    removed_at      timestamptz,
    -- `webhooks_version` when the row became what it is.
    version         bigint      NOT NULL
);
CREATE UNIQUE INDEX webhook_endpoints_url ON webhook_endpoints (organisation_id, url) WHERE removed_at IS NULL;
CREATE INDEX webhook_endpoints_version ON webhook_endpoints (version);

-- One row. Whoever changes anything above locks it first, and writes a higher version: the time in microseconds.
CREATE TABLE webhooks_version (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version  bigint  NOT NULL
);
INSERT INTO webhooks_version (version) VALUES (0);

-- Deliveries that could not be made at the first attempt: those that wait, and those that have failed. A row is
-- deleted when its delivery was made, and a month after it has failed.
CREATE TABLE webhook_deliveries (
    id              bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shard           integer     NOT NULL,
    organisation_id bigint      NOT NULL,
    endpoint_id     bigint      NOT NULL REFERENCES webhook_endpoints,
    -- Scheme, host and port of the URL.
    origin          text        NOT NULL,
    url             text        NOT NULL,
    event_id        text        NOT NULL,
    type            text        NOT NULL,
    event_at        timestamptz NOT NULL,
    body            bytea       NOT NULL,
    -- Attempts that have failed.
    attempts        integer     NOT NULL,
    kept_at         timestamptz NOT NULL DEFAULT now(),
    due_at          timestamptz NOT NULL,
    -- NULL: it waits.
    failed_at       timestamptz,
    -- Of the last attempt.
    last_status     integer     NOT NULL,
    last_reason     text        NOT NULL
);
-- An event that is read a second time is kept once.
CREATE UNIQUE INDEX webhook_deliveries_event ON webhook_deliveries (event_id, url);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (shard, organisation_id, origin, due_at)
    WHERE failed_at IS NULL;
CREATE INDEX webhook_deliveries_kept ON webhook_deliveries (shard, kept_at) WHERE failed_at IS NULL;
CREATE INDEX webhook_deliveries_failed ON webhook_deliveries (failed_at) WHERE failed_at IS NOT NULL;
CREATE INDEX webhook_deliveries_of ON webhook_deliveries (organisation_id, id);
