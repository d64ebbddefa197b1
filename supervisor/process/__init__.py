"""The processes of one node: forked, watched, replaced, drained."""
