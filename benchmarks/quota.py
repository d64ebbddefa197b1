"""How often credit is found in the process: many organisations, two ingest processes, real stores.

    python -m benchmarks.quota [--organisations 50000] [--rate 2000] [--seconds 60]

Takes five minutes. Every organisation sends once. The engine is restarted; its processes then ask for quota
of the organisations that have been spending. Then traffic by Zipf's law is offered for a while. The ingest
processes count how many submissions found their credit, how many waited for the ledger, and how many of
those waited for it again. The goals: at most 1 in 1,000 waits, and none waits again.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.arguments import count_from_1, more_than_0, parser_of
from benchmarks.load import Load
from benchmarks.running import Engine, engine, settled
from benchmarks.tally import Tally

_CONFIGURATION = "[roles]\ningest = 2\n"
_MAKERS = 8
# After a start the processes ask for quota of every organisation that spent; the load waits for it.
_PREFETCH_S = 10.0


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = parser_of("quota", __doc__)
    parser.add_argument("--organisations", type=count_from_1, default=50_000)
    parser.add_argument("--rate", type=more_than_0, default=2000.0, help="messages a second, one a request")
    parser.add_argument("--seconds", type=more_than_0, default=60.0)
    wish = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="smsengine-bench-") as folder:
        place = Path(folder)
        with engine(_CONFIGURATION, place=place) as running:
            keys = _organisations(running, wish.organisations)
            print(f"{len(keys)} organisations made; each sends once", flush=True)
            tally = asyncio.run(_each_once(running, keys))
            settled(running, tally.accepted, 120)
        before = _counted(place)
        with engine(_CONFIGURATION, place=place) as running:
            time.sleep(_PREFETCH_S)
            print(f"{wish.rate:.0f} messages a second for {wish.seconds:.0f} s", flush=True)
            tally = asyncio.run(_zipf(running, keys, wish.rate, wish.seconds))
            settled(running, tally.accepted, 120)
            verdict = running.audit()["verdict"]
        submissions, waited, again = (a - b for a, b in zip(_counted(place), before, strict=True))
    print(f"accepted {tally.accepted}, trouble {dict(tally.trouble)}, audit {verdict}")
    print(f"answers p50 {tally.quantile_ms(0.5):.1f} ms, p99 {tally.quantile_ms(0.99):.1f} ms")
    share = 1 - waited / max(1, submissions)
    print(f"{submissions} submissions, {waited} waited for the ledger ({share:.4%} did not), {again} twice")


def _organisations(running: Engine, count: int) -> list[str]:
    """API keys of `count` new organisations, each with more credit than it will use."""
    each = -(-count // _MAKERS)
    with ThreadPoolExecutor(_MAKERS) as makers:
        parts = makers.map(lambda _: running.organisations(each, 100_000), range(_MAKERS))
        return [key for part in parts for key in part][:count]


async def _each_once(running: Engine, keys: list[str]) -> Tally:
    load = Load(running.url, keys, size=1, express_share=0.5, connections=64, seed=1)
    load.in_turn()
    await load.open(1000.0, len(keys) / 1000.0)
    return load.tally


async def _zipf(running: Engine, keys: list[str], rate: float, seconds: float) -> Tally:
    load = Load(running.url, keys, size=1, express_share=0.5, connections=64, seed=2)
    await load.open(rate, seconds)
    return load.tally


def _counted(place: Path) -> tuple[int, int, int]:
    """Submissions, waits and second waits of all ingest processes that have ended so far."""
    lines = [line for line in _plain(place / "log").splitlines() if "credit found" in line]
    found = [dict(re.findall(r"(\w+)=(\d+)", line)) for line in lines]
    submissions, waited, again = (
        sum(int(counts.get(name, 0)) for counts in found)
        for name in ("submissions", "waited", "waited_again")
    )
    return submissions, waited, again


def _plain(log: Path) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace"))


if __name__ == "__main__":
    main()
