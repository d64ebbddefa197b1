"""What a sweep keeps, and what it draws."""

from __future__ import annotations

import contextlib
import xml.etree.ElementTree as ET

import msgspec

from benchmarks import results, sweep
from benchmarks.sweep import Settings, Swept

SETTINGS = Settings(
    queue="normal", rate=500.0, response_times="constant(50ms)", target="normal p99 <= 2s", seconds=1.0
)


def swept(processes: int, concurrency: int, p99: float) -> Swept:
    return Swept(
        settings=SETTINGS,
        processes=processes,
        concurrency=concurrency,
        messages=400,
        predicted_ms={"p50": 50.0, "p95": 60.0, "p99": 70.0},
        measured_ms={"p50": 51.0, "p95": 61.0, "p99": p99},
        throughput_per_s=concurrency * processes * 20.0,
        meets=p99 <= 2000,
        trouble={},
    )


def test_an_interrupted_sweep_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    monkeypatch.setattr(sweep, "read", results.read)
    measured = []

    def measure(running, system, settings, shape):
        measured.append((shape.processes, shape.concurrency))
        if len(measured) == 2:
            raise KeyboardInterrupt
        return swept(shape.processes, shape.concurrency, 100.0)

    monkeypatch.setattr(sweep, "_measure", measure)
    monkeypatch.setattr(sweep, "_started", lambda *_: contextlib.nullcontext())
    shapes = [sweep.Shape(processes=p, concurrency=8) for p in (1, 2, 3)]
    with contextlib.suppress(KeyboardInterrupt):
        sweep.sweep("try", SETTINGS, shapes, tmp_path / "none.json")
    found = sweep.sweep("try", SETTINGS, shapes, tmp_path / "none.json")
    assert measured == [(1, 8), (2, 8), (2, 8), (3, 8)]
    assert [one.processes for one in found] == [1, 2, 3]
    # Another load is another sweep.
    other = msgspec.structs.replace(SETTINGS, rate=1.0)
    sweep.sweep("try", other, shapes[:1], tmp_path / "none.json")
    assert measured[-1] == (1, 8)


def test_the_report_has_a_heat_map_of_each_and_frames_what_meets(tmp_path):
    found = [swept(1, 8, 9000.0), swept(1, 32, 90.0), swept(2, 8, 1500.0), swept(2, 32, 80.0)]
    sweep.write_report("sweep", found, tmp_path)
    drawn = ET.parse(tmp_path / "sweep.svg").getroot()
    cells = [e for e in drawn.iter("{http://www.w3.org/2000/svg}rect") if e.get("stroke")]
    assert len(cells) == 8
    # Three meet the target, and two the rate.
    assert sum(e.get("stroke") == "#222222" for e in cells) == 5
    table = (tmp_path / "sweep.md").read_text()
    assert "--processes 1,2 " in table
    assert '--target "normal p99 <= 2s" --seconds 1 --name sweep' in table
    assert "| 1 × 8 | 51 | 61 | 9000 | 70 | missed | 160 |" in table
