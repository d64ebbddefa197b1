"""The load generator: what it counts, and whether it is what is measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random

import msgspec
import pytest

from benchmarks import results
from benchmarks.load import Outcome, offer
from benchmarks.micro.http_answerer import answerer
from benchmarks.tally import Tally

ROOT = Path(__file__).parents[2]


def outcome(**changed) -> Outcome:
    of = {
        "url": "http://127.0.0.1:1", "model": "open", "size": 1, "seconds": 1.0, "accepted": 1, "trouble": {},
        "accepted_per_s": 100.0, "latency_ms": {}, "own_cpu": 0.1, "ceiling_per_s": 1000.0,
    }  # fmt: skip
    return Outcome(**(of | changed))


def test_an_open_load_sends_what_was_due_and_knows_its_own_ceiling():
    with answerer("202") as nothing:
        found = offer(f"http://127.0.0.1:{nothing.port}", ["k"], size=1, seconds=0.5, rate=200.0)
    assert (found.accepted, found.trouble, found.model) == (100, {}, "open")
    assert found.ceiling_per_s > 200
    assert found.latency_ms["p50"] <= found.latency_ms["p99"]


def test_a_tally_of_any_length_takes_the_same_memory_and_is_right_to_one_percent():
    rng, tally, all_s = Random(1), Tally(), []
    room = len(tally.bins)
    for _ in range(20_000):
        all_s.append(rng.lognormvariate(-3, 1.5))
        tally.took(all_s[-1])
    all_s.sort()
    for part in (0.01, 0.5, 0.99, 0.999, 1.0):
        exact_ms = all_s[min(len(all_s) - 1, int(part * len(all_s)))] * 1000
        assert tally.quantile_ms(part) == pytest.approx(exact_ms, rel=0.011)
    assert (len(tally.bins), tally.requests) == (room, 20_000)
    assert Tally().quantile_ms(0.99) == 0.0


def test_what_is_not_answered_with_202_is_trouble():
    with answerer("503") as refusing:
        found = offer(f"http://127.0.0.1:{refusing.port}", ["k"], size=100, seconds=0.2, rate=1000.0)
    assert found.accepted == 0
    assert found.trouble == {"status 503": 2}


@pytest.mark.parametrize(
    ("changed", "own"), [({}, False), ({"accepted_per_s": 800.0}, True), ({"own_cpu": 0.9}, True)]
)
def test_a_load_near_its_own_ceiling_says_so(changed, own):
    assert outcome(**changed).own_limit is own


def test_results_are_lines_with_the_facts_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    file = results.note("load", outcome())
    with file.open("ab") as lines:
        lines.write(b'{"half": ')
    results_of = results.read("load")
    assert [line["accepted"] for line in results_of] == [1]
    assert results_of[0]["machine"] == msgspec.to_builtins(results.machine())
    assert results.read("none") == []


def test_the_command_says_what_is_wrong_with_its_arguments():
    for given, wrong in [
        (["--url", "http://127.0.0.1:1"], "--key or --keys"),
        (["--url", "127.0.0.1", "--key", "k"], "--url must be"),
        (["--url", "http://127.0.0.1:1", "--key", "k", "--size", "0"], "--size: must be"),
    ]:
        ended = subprocess.run(
            [sys.executable, "-m", "benchmarks.load", *given],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        assert ended.returncode == 2
        assert wrong in ended.stderr
