-- Which providers carry which messages. The routes are always replaced as a whole; every
-- change of anything here counts the version up in the same transaction, so that whoever
-- remembers a version needs to look no further while it stands. Without any route every
-- provider carries everything, in the order of the configuration.

CREATE TABLE routes (
    -- Of the destination; the longest that matches counts, '' matches all.
    prefix     text        NOT NULL CHECK (prefix ~ '^([+][0-9]{1,15})?$'),
    -- '' matches every sender, and every queue.
    sender     text        NOT NULL CHECK (length(sender) <= 16),
    queue      text        NOT NULL CHECK (queue IN ('', 'express', 'normal')),
    providers  text[]      NOT NULL CHECK (cardinality(providers) BETWEEN 1 AND 32),
    -- Shares of the traffic, one for each provider; none: the first that can.
    weights    int[]       NOT NULL CHECK (cardinality(weights) IN (0, cardinality(providers))),
    -- Send again, by another provider, what a receipt says was not delivered.
    reroute    boolean     NOT NULL,
    -- When this route became what it is.
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (prefix, sender, queue)
);

-- What operators have changed of a provider at run time; one without a row is as configured.
CREATE TABLE provider_states (
    provider   text             PRIMARY KEY CHECK (length(provider) BETWEEN 1 AND 64),
    paused     boolean          NOT NULL DEFAULT false,
    -- Segments per second instead of those of the configuration; null: as configured.
    throughput double precision CHECK (throughput > 0 AND throughput <= 1000000),
    changed_at timestamptz      NOT NULL DEFAULT now()
);

-- One row. Whoever changes anything above locks it first.
CREATE TABLE routing_version (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version    bigint  NOT NULL,
    -- The routes were set once, perhaps to none: the configuration does not fill them any more.
    routes_set boolean NOT NULL
);
INSERT INTO routing_version (version, routes_set) VALUES (0, false);
