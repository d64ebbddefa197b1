"""What is kept in ClickHouse."""
