-- Since when a provider is paused, and why an operator says that it is. An engine of an older version pauses and resumes
-- without either: so the trigger says since when, and no reason outlives the pause that it was given for.
ALTER TABLE provider_states
    -- NULL: it is not paused.
    ADD COLUMN paused_at    timestamptz,
    ADD COLUMN pause_reason text NOT NULL DEFAULT '' CHECK (length(pause_reason) <= 200);
-- Of a pause from before, its throughput may have been changed since.
UPDATE provider_states SET paused_at = changed_at WHERE paused;

CREATE FUNCTION provider_pause() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT NEW.paused THEN
        NEW.paused_at := NULL;
        NEW.pause_reason := '';
    ELSIF NEW.paused_at IS NULL THEN
        NEW.paused_at := now();
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER provider_pause BEFORE INSERT OR UPDATE ON provider_states
    FOR EACH ROW EXECUTE FUNCTION provider_pause();
