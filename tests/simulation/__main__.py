"""Replay one seed with a trace, or run many: python -m tests.simulation --help"""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.runs import Result, run


def replay(seed: int, steps_max: int, trace: bool) -> Result:
    result = run(seed, trace=trace, steps_max=steps_max)
    for line in result.trace:
        print(line)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this one")
    parser.add_argument("--seeds", help="run these: A:B, the last one not included", default="")
    parser.add_argument("--steps", type=int, default=1 << 60, help="end a run after so many steps")
    parser.add_argument("--trace", action="store_true", help="print what happens, with virtual times")
    options = parser.parse_args()
    if options.seed is not None:
        seeds = range(options.seed, options.seed + 1)
    else:
        first, _, beyond = (options.seeds or "0:100").rpartition(":")
        seeds = range(int(first or 0), int(beyond))
    begun, steps, failed = time.perf_counter(), 0, []
    for seed in seeds:
        result = replay(seed, options.steps, options.trace)
        steps += result.steps
        if result.violation:
            failed.append(seed)
            print(f"seed {seed}: {result.violation}\n  python -m tests.simulation --seed {seed} --trace")
        elif len(seeds) == 1:
            print(f"seed {seed}: {result.answered}, {result.messages} messages, {result.twice} sent twice")
        if sys.stderr.isatty() or seed % 50 == 49:
            rate = steps / (time.perf_counter() - begun)
            print(f"{seed + 1 - seeds[0]} seeds, {steps} steps, {rate:.0f} steps/s", file=sys.stderr)
    print(f"{len(seeds)} seeds, {steps} steps, {len(failed)} failed{': ' if failed else ''}{failed or ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
