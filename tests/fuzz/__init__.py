"""Fuzzing: octets from outside that somebody has made up, and what must hold for all of them.

`make fuzz` runs it for long, guided by the lines that an input reaches (`__main__`); `make test` runs the
seeds of each target and a few thousand seeded mutations of them (`test_targets`).
"""
