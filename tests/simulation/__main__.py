"""Replay one seed with a trace, or run many: python -m tests.simulation --help"""

# ruff: noqa: T201 - it is a command

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.runs import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this one")
    parser.add_argument("--seeds", help="run these: A:B, the last one not included", default="")
    parser.add_argument("--steps", type=int, default=1 << 60, help="end a run after so many steps")
    parser.add_argument("--trace", action="store_true", help="print what happens, with virtual times")
    parser.add_argument("--no-rewinds", action="store_true", help="Redis never loses its last moments only")
    parser.add_argument("--half-fences", action="store_true", help="fences are booked in part, and then lost")
    options = parser.parse_args()
    if options.seed is not None:
        seeds = range(options.seed, options.seed + 1)
    else:
        first, _, beyond = (options.seeds or "0:100").rpartition(":")
        seeds = range(int(first or 0), int(beyond))
    begun, steps, failed = time.perf_counter(), 0, []
    for seed in seeds:
        result = run(
            seed,
            trace=options.trace,
            steps_max=options.steps,
            rewinds=not options.no_rewinds,
            half_fences=options.half_fences,
        )
        print(*result.trace, sep="\n", end="\n" if result.trace else "")
        steps += result.steps
        if result.violation:
            failed.append(seed)
            print(f"seed {seed}: {result.violation}\n  python -m tests.simulation --seed {seed} --trace")
        elif len(seeds) == 1:
            print(f"seed {seed}: {result.answered}, {result.messages} messages, {result.twice} sent twice")
        done = seed + 1 - seeds[0]
        if done % 20 == 0 and done < len(seeds):
            rate = steps / (time.perf_counter() - begun)
            print(f"{done} of {len(seeds)} seeds, {steps} steps, {rate:.0f} a second", file=sys.stderr)
    print(f"{len(seeds)} seeds, {steps} steps, {len(failed)} failed{': ' if failed else ''}{failed or ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
