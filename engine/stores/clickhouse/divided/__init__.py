"""The adapters of ClickHouse over all divisions (`engine.stores.clickhouse.division`)."""
