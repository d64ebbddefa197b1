"""Every event of every message, from Redis to ClickHouse."""
