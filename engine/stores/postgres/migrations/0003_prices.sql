-- What a segment costs, by prefix of the destination; the longest that matches counts, ''
-- matches all. The table is always replaced as a whole, together with its version: whoever
-- remembers a version needs to look no further while it stands. Version 0 is a table that
-- nobody has filled yet; the first to do so is the migration, from the configuration.

CREATE TABLE prices (
    prefix     text        PRIMARY KEY CHECK (prefix ~ '^([+][0-9]{1,15})?$'),
    -- Units of credit a segment.
    units      int         NOT NULL CHECK (units BETWEEN 1 AND 1000000),
    -- When this prefix got this price.
    changed_at timestamptz NOT NULL DEFAULT now()
);

-- One row. Whoever changes prices locks it first.
CREATE TABLE price_version (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version  bigint  NOT NULL
);
INSERT INTO price_version (version) VALUES (0);
