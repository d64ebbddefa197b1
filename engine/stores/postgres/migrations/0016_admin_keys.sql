-- Admin keys with names. A key reads smsa_<id>_<secret>; only the SHA-256 of its 256-bit random secret is
-- kept. The key of the configuration is not here.
CREATE TABLE admin_keys (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name          text        NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    scopes        text[]      NOT NULL CHECK (
                      cardinality(scopes) > 0 AND scopes <@ ARRAY['read', 'operate', 'money', 'all']),
    secret_sha256 bytea       NOT NULL CHECK (length(secret_sha256) = 32),
    created_at    timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz,
    revoked_at    timestamptz,
    -- To the minute.
    last_used_at  timestamptz
);
-- One at a time has a name, so that a record of a change names one key.
CREATE UNIQUE INDEX admin_keys_by_name ON admin_keys (name) WHERE revoked_at IS NULL;

-- The keys of organisations: what they are called, what they are good for, and for how long.
-- An engine of an older version knows nothing of these and makes keys that are good for everything.
ALTER TABLE api_keys
    ADD COLUMN name         text   NOT NULL DEFAULT '' CHECK (length(name) <= 200),
    ADD COLUMN scopes       text[] NOT NULL DEFAULT ARRAY['send', 'read'] CHECK (
        cardinality(scopes) > 0 AND scopes <@ ARRAY['send', 'read']),
    ADD COLUMN expires_at   timestamptz,
    -- To the minute.
    ADD COLUMN last_used_at timestamptz;
