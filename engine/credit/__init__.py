"""Prepaid credit: the holder, the ledger, and what they exchange."""
