-- The queues of which operators have everything wait. Who changes this locks `routing_version` first, and counts
-- it up in the same transaction: it reaches the processes as a part of the routing plan.

CREATE TABLE queue_pauses (
    queue     text        PRIMARY KEY CHECK (queue IN ('express', 'normal')),
    paused_at timestamptz NOT NULL DEFAULT now(),
    reason    text        NOT NULL DEFAULT '' CHECK (length(reason) <= 200)
);
