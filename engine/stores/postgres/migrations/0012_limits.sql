-- What operators have set for organisations; one without a row has the limits of all. Rows are never deleted:
-- one of which everything was taken back is as if it was not there, and processes learn of that by its version.
CREATE TABLE organisation_limits (
    organisation_id bigint           PRIMARY KEY REFERENCES organisations,
    -- Its share of a queue beside others that wait; null: 1.
    weight          double precision CHECK (weight BETWEEN 0.1 AND 100),
    -- Most messages of it that wait; null: as the configuration says.
    backlog_max     bigint           CHECK (backlog_max BETWEEN 1000 AND 1000000000),
    -- Most messages of it that are accepted, a second; null: no limit.
    rate_max        double precision CHECK (rate_max BETWEEN 0.1 AND 1000000),
    -- Null: it is not paused.
    paused_at       timestamptz,
    pause_reason    text             NOT NULL DEFAULT '' CHECK (length(pause_reason) <= 200),
    -- `limits_version` when the row became what it is.
    version         bigint           NOT NULL
);
CREATE INDEX organisation_limits_version ON organisation_limits (version);
CREATE INDEX organisation_limits_paused ON organisation_limits (organisation_id) WHERE paused_at IS NOT NULL;

-- One row. Whoever changes anything above locks it first, and writes a higher version: the time in
-- microseconds. So a version that was lost when PostgreSQL went back never comes again.
CREATE TABLE limits_version (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version  bigint  NOT NULL
);
INSERT INTO limits_version (version) VALUES (0);
