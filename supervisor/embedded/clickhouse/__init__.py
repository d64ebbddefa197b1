"""ClickHouse's engine behind a small HTTP server."""
