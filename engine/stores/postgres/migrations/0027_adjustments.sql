-- What operators add to the credit of an organisation, or take from it, with a reason; once for each reference.
CREATE TABLE adjustments (
    organisation_id bigint      NOT NULL REFERENCES accounts,
    reference       text        NOT NULL CHECK (length(reference) BETWEEN 1 AND 200),
    -- Below 0: taken.
    units           bigint      NOT NULL CHECK (units <> 0),
    reason          text        NOT NULL CHECK (length(reason) BETWEEN 1 AND 200),
    at              timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organisation_id, reference)
);

-- An adjustment is a movement between `payments` and `available`, in either direction. Rows that are there
-- already satisfy what is wider, so they are not read again.
ALTER TABLE journal
    DROP CONSTRAINT journal_movement_check,
    ADD CONSTRAINT journal_movement_check CHECK (movement IN
        ('top-up', 'adjustment', 'grant', 'hold', 'capture', 'release', 'return', 'fence', 'reopen')) NOT VALID,
    DROP CONSTRAINT journal_credit_check,
    ADD CONSTRAINT journal_credit_check CHECK (credit IN
        ('payments', 'available', 'granted', 'held', 'captured')) NOT VALID;
