-- How the data are laid out, here and in Redis. One row, written at the first start and never
-- changed: an organisation's shard follows from the number of shards, so that with another number
-- its quotas would stay open and streams that hold messages would be read by nobody.
CREATE TABLE layout (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    shards   int     NOT NULL CHECK (shards BETWEEN 1 AND 256)
);
-- The ledger of an older version has a row for each shard once it has run.
INSERT INTO layout (shards) SELECT max(shard) + 1 FROM shards HAVING count(*) > 0;
