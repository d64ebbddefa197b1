-- What tells that Redis went back in time: that it has lost its last moments, and perhaps been
-- given others since.
--
-- `link` is the digest of all usage entries up to `position`; each entry names the one before it.
-- Empty before the first entry, and for entries that an older version wrote. After a shard was
-- closed it is the new generation.
-- `delivered` is the row of the last answer that was put into an inbox of the shard and deleted
-- from `answers`; Redis keeps the same count.
-- `former` are the generations before this one, which a Redis that went back may still be in.
ALTER TABLE shards
    ADD COLUMN link      text   NOT NULL DEFAULT '',
    ADD COLUMN delivered bigint NOT NULL DEFAULT 0,
    ADD COLUMN former    text[] NOT NULL DEFAULT '{}';
