"""The nodes of an engine: what each notes of itself for the others, and what operators wish of it."""
