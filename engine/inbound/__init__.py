"""What recipients write back: kept, put together, routed to an organisation, and heeded when it is STOP."""
