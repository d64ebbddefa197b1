-- Whose the messages are that recipients send to a number, by their first word.
CREATE TABLE inbound_routes (
    -- Digits of the number or short code.
    number          text   NOT NULL CHECK (number ~ '^[0-9]{2,15}$'),
    -- In upper case; '': messages that begin with no other keyword of the number.
    keyword         text   NOT NULL DEFAULT '' CHECK (length(keyword) <= 40),
    organisation_id bigint NOT NULL REFERENCES organisations,
    PRIMARY KEY (number, keyword)
);
