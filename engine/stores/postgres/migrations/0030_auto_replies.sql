-- What is answered, in the name of an organisation, to recipients who write STOP, START or HELP.
CREATE TABLE auto_replies (
    organisation_id bigint NOT NULL REFERENCES organisations,
    action          text   NOT NULL CHECK (action IN ('stop', 'start', 'help')),
    -- Digits of the number or short code that was written to; '': every other.
    number          text   NOT NULL DEFAULT '' CHECK (number ~ '^([0-9]{2,15})?$'),
    -- Of the word that was written, ISO 639-1; '': every other.
    language        text   NOT NULL DEFAULT '' CHECK (language ~ '^([a-z]{2,3})?$'),
    -- '': nothing is answered.
    text            text   NOT NULL CHECK (length(text) <= 1600),
    PRIMARY KEY (organisation_id, action, number, language)
);

-- The inbound message by which the recipient opted out last; '': it was none. By it a STOP that is heeded a second
-- time, because the first was not finished, is known from one of somebody who had opted out before.
ALTER TABLE opt_outs ADD COLUMN message_id text NOT NULL DEFAULT '';
