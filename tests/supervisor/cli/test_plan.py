"""`smsengine plan`, as a script and as a person call it."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from engine.capacity import plan as plan_of
from engine.capacity.costs import REFERENCE
from supervisor import cli

HEADER = "organisation,queue,messages_per_second,burst\n"
PEAKS = HEADER + "acme,express,120,1\nacme,normal,80,100\nshop,normal,20,1\n"
TIMES = ["--response-times", "p50=80ms,p90=150ms,p99=900ms"]
TARGETS = ["--target", "express p99 <= 2s", "--target", "normal p95 <= 10min"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SMSENGINE_DATA_DIR", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(plan_of, "_FINAL", (100_000, 400_000))
    monkeypatch.setattr(plan_of, "_COMPARED", (50_000, 200_000))
    Path("peaks.csv").write_text(PEAKS)


def test_the_answer_for_scripts_has_a_shape_for_each_queue(capsys: pytest.CaptureFixture[str]):
    assert cli.run(["plan", "--peaks", "peaks.csv", *TIMES, *TARGETS, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["meets"] is True
    express, normal = answer["queues"]
    assert (express["queue"], normal["queue"]) == ("express", "normal")
    assert express["processes"] == normal["processes"] == 1
    # 17 erlangs of express need 18 slots, and a few more for the target.
    assert 18 <= express["concurrency"] <= 30
    assert express["bottleneck"] == "concurrency"
    assert 0.5 < express["utilisation"] <= 0.95
    predicted = express["predicted"]
    assert 80 <= predicted["p50_ms"] <= predicted["p95_ms"] <= predicted["p99_ms"] <= 2000
    assert predicted["p99_ms"] <= predicted["p999_ms"]
    assert express["targets"][0]["met"] is True
    assert f"[queues.express]\nconcurrency = {express['concurrency']}" in answer["config"]
    assert {v["name"] for v in answer["sensitivity"]} >= {"arrivals +20 %", "response times -20 %"}


def test_people_see_the_plan_on_eighty_columns_and_a_page_that_needs_no_network(
    capsys: pytest.CaptureFixture[str],
):
    asked = ["--what-if", "provider p50=2s", "--report", "plan.html"]
    assert cli.run(["plan", "--peaks", "peaks.csv", *TIMES, *TARGETS, *asked]) == 0
    shown = capsys.readouterr().out
    assert "express p99 <= 2 s is met" in shown
    assert "provider p50=2s" in shown
    assert "make calibrate" in shown
    assert max(map(len, shown.splitlines())) <= 80
    page = Path("plan.html").read_text(encoding="utf-8")
    assert page.count("<svg") == page.count("</svg>") == 4
    assert "http" not in page.replace("http-equiv", "")
    assert "nan" not in page


def test_no_plan_is_exit_code_1_with_the_reason_and_the_nearest(capsys: pytest.CaptureFixture[str]):
    code = cli.run(["plan", "--peaks", "peaks.csv", *TIMES, "--target", "express p99 <= 500ms", "--json"])
    assert code == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["meets"] is False
    assert "the provider alone takes 900 ms" in answer["reason"]
    assert answer["queues"][0]["concurrency"] >= 18


def test_costs_that_were_measured_here_are_used(capsys: pytest.CaptureFixture[str]):
    Path("data").mkdir()
    dear = msgspec.structs.replace(REFERENCE, machine="this one", message_us=10_000.0)
    Path("data/calibration.json").write_bytes(msgspec.json.encode(dear))
    assert cli.run(["plan", "--peaks", "peaks.csv", *TIMES, *TARGETS, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["costs"] == "this one"
    assert answer["queues"][0]["processes"] >= 2


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (["--peaks", "none.csv"], "--peaks none.csv cannot be read: No such file or directory."),
        (["--peaks", "wrong.csv"], "--peaks: wrong.csv, line 2: queue must be express or normal."),
        (["--response-times", "fast"], "--response-times: 'fast' is no quantile; allowed are"),
        (["--from-activity", "30d"], "One of --peaks and --from-activity is needed, and not both."),
        (["--target", "express p99"], "--target 'express p99' must be a queue, a quantile and a time"),
        (["--throughput", "0"], "--throughput must be a number from 0.01 to 1,000,000."),
        (["--window", "0"], "--window must be a whole number from 1 to 10,000."),
        (["--failures", "1"], "--failures must be a number from 0 to 0.9."),
        (["--costs", "peaks.csv"], "--costs peaks.csv is not of `make calibrate`:"),
        (["--what-if", "rain"], "--what-if 'rain' must be one of"),
        (["--report", "no/where.html"], "--report no/where.html cannot be written:"),
    ],
)
def test_a_wrong_option_is_one_sentence(changed, sentence, capsys: pytest.CaptureFixture[str]):
    Path("wrong.csv").write_text(HEADER + "acme,fast,1,1\n")
    given = ["--peaks", "peaks.csv", *TIMES, "--target", "express p99 <= 2s"]
    for name in ("--peaks", "--response-times", "--target"):
        if name in changed:
            at = given.index(name)
            del given[at : at + 2]
    assert cli.run(["plan", *given, *changed]) == 2
    shown = capsys.readouterr()
    assert sentence in shown.err
    assert len(shown.err.strip().splitlines()) == 1
    assert not shown.out


def test_one_queue_may_have_times_of_its_own(capsys: pytest.CaptureFixture[str]):
    slow = ["--response-times", "constant(50ms)", "--response-times", "normal:constant(2s)"]
    assert cli.run(["plan", "--peaks", "peaks.csv", *slow, *TARGETS, "--json"]) == 0
    express, normal = json.loads(capsys.readouterr().out)["queues"]
    assert express["predicted"]["p50_ms"] < 100
    assert normal["predicted"]["p50_ms"] >= 2000


def test_where_more_arrives_than_is_sent_no_figure_is_given(capsys: pytest.CaptureFixture[str]):
    few = ["--throughput", "50", "--target", "express p99 <= 2s"]
    assert cli.run(["plan", "--peaks", "peaks.csv", *TIMES, *few, "--report", "plan.html"]) == 1
    shown = capsys.readouterr().out
    assert "express p99 <= 2 s is missed: more arrives than is sent." in shown
    assert "the backlog stays while the peak" in shown
    assert "grows: more arrives than is sent" in shown
    assert "more arrives than is sent" in Path("plan.html").read_text(encoding="utf-8")
    asked = ["--target", "express p99 <= 2s", "--what-if", "arrivals x2", "--json"]
    assert cli.run(["plan", "--peaks", "peaks.csv", *TIMES, *asked]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["queues"][0]["predicted"]["grows"] is False
    assert answer["what_if"][0]["predicted"]["express"]["grows"] is True
