-- What audits have verified, so that the next audit begins where they ended and its cost does not
-- grow with the age of the engine.
--
-- A checkpoint closes a shard's past at two places: in each organisation's journal (`journal_id`;
-- within an organisation ids go up in the order of the commits, so no row can come in before it)
-- and in the shard's activity stream (`stream_ms`, `stream_seq`; every row before it is in
-- ClickHouse, and what happens later, such as a late receipt, gets a later place).

-- One row a shard and closing, never changed: a chain. `link` is the digest of the link before and
-- of the row; `digest` is that of the shard's rows in `audit_sums`, as they stood then.
CREATE TABLE audit_checkpoints (
    shard         int         NOT NULL,
    number        int         NOT NULL CHECK (number > 0),
    -- When the books were read.
    at            timestamptz NOT NULL,
    -- `shards.losses` then: what was recorded before a later loss cannot be compared.
    losses        int         NOT NULL,
    stream_ms     bigint      NOT NULL,
    stream_seq    bigint      NOT NULL,
    -- Of all organisations of the shard: how many, and what the books and the activity said.
    organisations int         NOT NULL,
    holds         bigint      NOT NULL,
    captured      bigint      NOT NULL,
    releases      bigint      NOT NULL,
    recorded      bigint      NOT NULL,
    digest        text        NOT NULL,
    link          text        NOT NULL,
    PRIMARY KEY (shard, number)
);

-- Of each organisation the sums up to its shard's last checkpoint. No foreign key: it would lock
-- the account against the ledger for as long as an audit takes.
CREATE TABLE audit_sums (
    organisation_id   bigint PRIMARY KEY,
    shard             int    NOT NULL,
    -- The last row of its journal that is in these sums, and what the journal says up to there.
    journal_id        bigint NOT NULL,
    topped_up         bigint NOT NULL,
    available         bigint NOT NULL,
    granted           bigint NOT NULL,
    held              bigint NOT NULL,
    captured          bigint NOT NULL,
    holds             bigint NOT NULL,
    releases          bigint NOT NULL,
    -- Units held, captured and released by recorded events up to the checkpoint.
    recorded_held     bigint NOT NULL,
    recorded_captured bigint NOT NULL,
    recorded_released bigint NOT NULL,
    -- By how much the books are ahead of the recorded events for good, since Redis lost data;
    -- else 0.
    gap_held          bigint NOT NULL,
    gap_captured      bigint NOT NULL,
    gap_released      bigint NOT NULL
);
CREATE INDEX audit_sums_by_shard ON audit_sums (shard, organisation_id);

-- When data of this shard's Redis was last lost.
ALTER TABLE shards ADD COLUMN lost_at timestamptz;
