-- The origins of an organisation that take deliveries again while older ones wait for their next attempt: their last
-- attempt succeeded. Notifiers write a row when an origin comes to take one, and delete it with the next failure.
-- Notifiers of an older version write none, so origins count as failing while anything waits there, as before.
CREATE TABLE webhook_recoveries (
    shard           integer     NOT NULL,
    organisation_id bigint      NOT NULL,
    origin          text        NOT NULL,
    recovered_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shard, organisation_id, origin)
);
