"""How often a worker sweeps its queue: for the sweeper itself, and for the model of capacity."""

# Pause between looks at the due sets, seconds: a retry or a scheduled message is late by this at most.
TICK_S = 0.1
# How often a worker looks for entries to take over, seconds; after a look that has found some, every TICK_S.
TAKE_OVER_S = 1.0
