-- What operators wish of each node. A node without a row takes messages, with the numbers of processes that its
-- configuration says. Who changes this locks the table first.

CREATE TABLE node_wishes (
    node       text        PRIMARY KEY CHECK (length(node) BETWEEN 1 AND 200),
    -- NULL: it is not drained.
    drained_at timestamptz,
    reason     text        NOT NULL DEFAULT '' CHECK (length(reason) <= 200),
    -- Processes of each queue; NULL: as many as its configuration says.
    express    integer     CHECK (express BETWEEN 0 AND 256),
    normal     integer     CHECK (normal BETWEEN 0 AND 256)
);

-- The queues that take no new messages and deliver what waits. Who changes this locks `routing_version` first.
CREATE TABLE queue_drains (
    queue      text        PRIMARY KEY CHECK (queue IN ('express', 'normal')),
    drained_at timestamptz NOT NULL DEFAULT now(),
    reason     text        NOT NULL DEFAULT '' CHECK (length(reason) <= 200)
);
