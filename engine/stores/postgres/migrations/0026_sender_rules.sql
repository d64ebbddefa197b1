-- What organisations may use as senders, and where they may send. One without a row may use any sender, and
-- send everywhere. Rows are never deleted: one of which everything was taken back is as if it was not there.
CREATE TABLE sender_rules (
    organisation_id bigint PRIMARY KEY REFERENCES organisations,
    -- Null: any.
    senders         text[],
    -- Of a message that names no sender; '': the provider's.
    default_sender  text   NOT NULL DEFAULT '',
    -- Prefixes of numbers; null: any.
    destinations    text[],
    -- `sender_rules_version` when the row became what it is.
    version         bigint NOT NULL
);
CREATE INDEX sender_rules_version_of_row ON sender_rules (version);

-- Which kinds of senders a destination takes, for all organisations; the longest prefix counts. None: nothing is
-- sent there.
CREATE TABLE destination_rules (
    prefix  text   PRIMARY KEY CHECK (prefix ~ '^(\+[0-9]{1,15})?$'),
    senders text[] NOT NULL CHECK (senders <@ ARRAY['name', 'short', 'long'])
);

-- One row. Whoever changes anything above locks it first, and writes a higher version: the time in
-- microseconds. So a version that was lost when PostgreSQL went back never comes again.
CREATE TABLE sender_rules_version (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version  bigint  NOT NULL
);
INSERT INTO sender_rules_version (version) VALUES (0);
