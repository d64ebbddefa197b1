-- What the ledger writes in one step, as one call: a transaction of one round trip. Nothing of it is
-- decided here; `engine/stores/postgres/ledger_step.py` says what the arguments are.
--
-- `outcome` is 'written', or why nothing was written: 'term' (another ledger has begun to lead), or 'marks'
-- (the books of a shard do not stand where they stood when they were read). It fails with 40001 when
-- somebody else has changed an account since, other than by adding to `available`.
--
-- Top-ups add to `available` at any time. So the change of `available` is added here, and the outcome is
-- that of a ledger that came before those top-ups. Accounts are locked before journal rows are numbered:
-- the rows of an organisation are numbered in the order of their commits.
CREATE FUNCTION write_books(
    of_term bigint,
    mark_shards int[], read_positions text[], read_links text[], new_positions text[], new_links text[],
    account_ids bigint[], available_changes bigint[],
    new_granted bigint[], new_held bigint[], new_captured bigint[],
    read_granted bigint[], read_held bigint[], read_captured bigint[],
    quota_ids bigint[], quota_holders text[], quota_units bigint[],
    journal_ids bigint[], movements text[], debits text[], credits text[], journal_units bigint[],
    journal_shards int[], journal_positions text[], journal_references text[],
    event_shards int[], event_ids bigint[], event_units bigint[],
    closed_requests bigint[],
    request_shards int[], request_holders text[], request_epochs bigint[], request_numbers bigint[],
    request_ids bigint[], request_wanted bigint[], request_needed bigint[], request_waiting bigint[],
    answer_shards int[], answer_holders text[], answer_payloads bytea[],
    sent_answers bigint,
    OUT outcome text, OUT request_rows bigint[], OUT answer_rows bigint[]
) LANGUAGE plpgsql AS $$
DECLARE
    saved bigint;
BEGIN
    PERFORM FROM ledger_term WHERE term = of_term FOR UPDATE;
    IF NOT FOUND THEN
        outcome := 'term';
        RETURN;
    END IF;
    PERFORM FROM shards WHERE shard = ANY(mark_shards) ORDER BY shard FOR UPDATE;
    IF EXISTS (
        SELECT FROM unnest(mark_shards, read_positions, read_links) AS r (shard, position, link)
        LEFT JOIN shards s ON s.shard = r.shard
        WHERE s.position IS DISTINCT FROM r.position OR s.link IS DISTINCT FROM r.link
    ) THEN
        outcome := 'marks';
        RETURN;
    END IF;

    IF cardinality(account_ids) > 0 THEN
        PERFORM FROM accounts WHERE organisation_id = ANY(account_ids)
            ORDER BY organisation_id FOR NO KEY UPDATE;
        UPDATE accounts a SET available = a.available + n.available_change,
            granted = n.granted, held = n.held, captured = n.captured
        FROM unnest(account_ids, available_changes, new_granted, new_held, new_captured,
                    read_granted, read_held, read_captured)
            AS n (organisation_id, available_change, granted, held, captured,
                  read_granted, read_held, read_captured)
        WHERE a.organisation_id = n.organisation_id AND a.available + n.available_change >= 0
            AND a.granted = n.read_granted AND a.held = n.read_held AND a.captured = n.read_captured;
        GET DIAGNOSTICS saved = ROW_COUNT;
        IF saved <> cardinality(account_ids) THEN
            RAISE EXCEPTION 'an account was changed by somebody else while the ledger decided'
                USING ERRCODE = '40001';
        END IF;
    END IF;
    IF cardinality(quota_ids) > 0 THEN
        INSERT INTO quotas (organisation_id, holder, units)
        SELECT n.organisation_id, n.holder, n.units
        FROM unnest(quota_ids, quota_holders, quota_units) AS n (organisation_id, holder, units)
        WHERE n.units > 0
        ON CONFLICT (organisation_id, holder) DO UPDATE SET units = EXCLUDED.units;
        DELETE FROM quotas q
        USING unnest(quota_ids, quota_holders, quota_units) AS n (organisation_id, holder, units)
        WHERE q.organisation_id = n.organisation_id AND q.holder = n.holder AND n.units = 0;
    END IF;
    IF cardinality(journal_ids) > 0 THEN
        INSERT INTO journal (organisation_id, movement, debit, credit, units, shard, position, reference)
        SELECT n.* FROM unnest(journal_ids, movements, debits, credits, journal_units, journal_shards,
                               journal_positions, journal_references) AS n;
    END IF;
    IF cardinality(event_ids) > 0 THEN
        INSERT INTO balance_events (shard, organisation_id, event, units)
        SELECT n.shard, n.organisation_id, 'low_balance', n.units
        FROM unnest(event_shards, event_ids, event_units) AS n (shard, organisation_id, units);
    END IF;
    UPDATE shards s SET position = n.position, link = n.link
    FROM unnest(mark_shards, new_positions, new_links) AS n (shard, position, link)
    WHERE s.shard = n.shard AND (s.position, s.link) IS DISTINCT FROM (n.position, n.link);

    IF cardinality(closed_requests) > 0 THEN
        DELETE FROM waiting_requests WHERE id = ANY(closed_requests);
    END IF;
    IF cardinality(request_ids) > 0 THEN
        WITH written AS (
            INSERT INTO waiting_requests
                (shard, holder, epoch, number, organisation_id, wanted, needed, waiting)
            SELECT n.shard, n.holder, n.epoch, n.number, n.organisation_id, n.wanted, n.needed, n.waiting
            FROM unnest(request_shards, request_holders, request_epochs, request_numbers, request_ids,
                        request_wanted, request_needed, request_waiting) WITH ORDINALITY
                AS n (shard, holder, epoch, number, organisation_id, wanted, needed, waiting, place)
            ORDER BY place RETURNING id)
        SELECT array_agg(id ORDER BY id) INTO request_rows FROM written;
    END IF;
    -- Answers that were sent go; the row of the last one of each shard is kept.
    IF sent_answers > 0 THEN
        WITH sent AS (DELETE FROM answers WHERE id <= sent_answers RETURNING shard, id)
        UPDATE shards s SET delivered = n.id
        FROM (SELECT shard, max(id) AS id FROM sent GROUP BY shard) AS n
        WHERE s.shard = n.shard;
    END IF;
    IF cardinality(answer_shards) > 0 THEN
        WITH written AS (
            INSERT INTO answers (shard, holder, payload)
            SELECT n.shard, n.holder, n.payload
            FROM unnest(answer_shards, answer_holders, answer_payloads) WITH ORDINALITY
                AS n (shard, holder, payload, place)
            ORDER BY place RETURNING id)
        SELECT array_agg(id ORDER BY id) INTO answer_rows FROM written;
    END IF;
    outcome := 'written';
END $$;
