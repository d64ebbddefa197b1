-- How each node last found or made ClickHouse ready for itself, so that it can start again while ClickHouse is away. A node
-- without a row waits for ClickHouse when it starts.
CREATE TABLE clickhouse_prepared (
    node        text        PRIMARY KEY CHECK (length(node) BETWEEN 1 AND 200),
    -- SHA-256 of what it made ready: the servers, the scripts, and how long rows are kept.
    sha256      text        NOT NULL,
    prepared_at timestamptz NOT NULL DEFAULT now()
);
