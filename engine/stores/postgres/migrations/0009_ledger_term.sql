-- Which ledger may write the books: the one that counted `term` up last, when it read them. Every
-- transaction of a ledger locks this row first and compares.
CREATE TABLE ledger_term (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    term     bigint  NOT NULL DEFAULT 0
);
INSERT INTO ledger_term DEFAULT VALUES;
