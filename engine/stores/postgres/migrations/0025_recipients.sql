-- Who wants no messages of an organisation. Rows are never deleted: one that was taken back stays with
-- `opted_out` false, and processes learn of that by its version.
CREATE TABLE opt_outs (
    organisation_id bigint      NOT NULL REFERENCES organisations,
    -- The digits of the number in E.164, without the "+".
    number          bigint      NOT NULL CHECK (number BETWEEN 1000000 AND 999999999999999),
    opted_out       boolean     NOT NULL DEFAULT true,
    -- Who said so last: the organisation, an operator, or the recipient in a message.
    source          text        NOT NULL CHECK (source IN ('api', 'admin', 'inbound')),
    changed_at      timestamptz NOT NULL DEFAULT now(),
    -- Each row has one of its own, in the order of the commits.
    version         bigint      NOT NULL,
    PRIMARY KEY (organisation_id, number)
);
CREATE INDEX opt_outs_version_of_row ON opt_outs (version);

-- One row. Whoever changes anything above locks it first, and writes a higher version: the time in
-- microseconds. So a version that was lost when PostgreSQL went back never comes again.
CREATE TABLE opt_outs_version (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version  bigint  NOT NULL
);
INSERT INTO opt_outs_version (version) VALUES (0);

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
