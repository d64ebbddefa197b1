-- The networks from which a key may be used; none: from everywhere.
-- An engine of an older version knows nothing of these, and takes such a key from everywhere.
ALTER TABLE api_keys ADD COLUMN networks cidr[] NOT NULL DEFAULT '{}' CHECK (cardinality(networks) <= 100);
ALTER TABLE admin_keys ADD COLUMN networks cidr[] NOT NULL DEFAULT '{}' CHECK (cardinality(networks) <= 100);
