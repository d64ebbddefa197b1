-- The text of a message, with its acceptance, where `[activity] texts_days` says so; else "", which costs parts on the
-- disk nothing (ClickHouse writes such a column as sparse). Written only by the archiver.
ALTER TABLE activity ADD COLUMN IF NOT EXISTS text String DEFAULT '' CODEC(ZSTD(1)) AFTER callback_url;
