"""`smsengine plan`: how many processes, with how much concurrency, meet a promised latency."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from supervisor.cli import options

_INPUTS = "What arrives, and what it meets"
_OUTPUT = "What is shown"

_Peaks = Annotated[
    Path | None,
    typer.Option(
        "--peaks",
        metavar="FILE",
        help="CSV: organisation,queue,messages_per_second,burst (most messages that arrive at once).",
        rich_help_panel=_INPUTS,
    ),
]
_FromActivity = Annotated[
    str,
    typer.Option(
        metavar="DAYS",
        help="Instead of --peaks: the busiest minute of each queue in so many days of the running engine, "
        "such as 30d, with its organisations, bursts, segments and response times.",
        rich_help_panel=_INPUTS,
    ),
]
_ResponseTimes = Annotated[
    list[str] | None,
    typer.Option(
        "--response-times",
        metavar="TIMES",
        help="How long the provider takes to answer: p50=80ms,p90=150ms,p99=900ms, exponential(mean=100ms), "
        "lognormal(median=80ms, sigma=0.6), constant(50ms), or a file of quantiles. Of one queue alone: "
        "express:TIMES.",
        rich_help_panel=_INPUTS,
    ),
]
_Targets = Annotated[
    list[str],
    typer.Option(metavar="TARGET", help="What is promised, such as 'express p99 <= 2s'. May be repeated."),
]
_Throughput = Annotated[
    float | None,
    typer.Option(metavar="N", help="Segments a second that the provider takes.", rich_help_panel=_INPUTS),
]
_ExpressShare = Annotated[
    float,
    typer.Option(
        metavar="PART",
        help="Part of the throughput that is kept for express, as in the settings of the provider.",
        rich_help_panel=_INPUTS,
    ),
]
_Window = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Sends in flight that the provider allows one process: SMPP sessions times window.",
        rich_help_panel=_INPUTS,
    ),
]
_Segments = Annotated[
    float | None,
    typer.Option(metavar="N", help="Segments a message, in the mean; else 1.", rich_help_panel=_INPUTS),
]
_Failures = Annotated[
    float,
    typer.Option(
        metavar="PART",
        help="Part of the sends that fail for the time being and are tried again.",
        rich_help_panel=_INPUTS,
    ),
]
_ProcessesMax = Annotated[
    int | None, typer.Option(metavar="N", help="Most processes of a queue.", rich_help_panel=_INPUTS)
]
_Cores = Annotated[
    int,
    typer.Option(
        metavar="N", help="Cores of one node; 0: as many as may be used here.", rich_help_panel=_INPUTS
    ),
]
_CostsFile = Annotated[
    Path | None,
    typer.Option(
        "--costs",
        metavar="FILE",
        help="What the engine costs here, by `make calibrate`; without it, calibration.json in the data "
        "directory, else figures of a reference machine.",
        rich_help_panel=_INPUTS,
    ),
]
_WhatIf = Annotated[
    list[str] | None,
    typer.Option(
        metavar="QUESTION",
        help="Ask of the plan: 'provider p50=2s', 'arrivals x2', 'throughput 500', 'processes -1', "
        "'worker killed'.",
        rich_help_panel=_OUTPUT,
    ),
]
_Report = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write a page with plots, HTML.", rich_help_panel=_OUTPUT),
]
_Apply = Annotated[
    bool,
    typer.Option(
        "--apply",
        help="Give the running engine these processes and this concurrency, as `queue scale` does.",
        rich_help_panel=_OUTPUT,
    ),
]
_Yes = Annotated[bool, typer.Option("--yes", help="With --apply: do not ask first.", rich_help_panel=_OUTPUT)]


@options.admin_options
def plan(
    target: _Targets,
    peaks_file: _Peaks = None,
    from_activity: _FromActivity = "",
    response_times_given: _ResponseTimes = None,
    throughput: _Throughput = None,
    express_share: _ExpressShare = 0.2,
    window: _Window = None,
    segments: _Segments = None,
    failures: _Failures = 0.0,
    processes_max: _ProcessesMax = None,
    cores: _Cores = 0,
    costs_file: _CostsFile = None,
    what_if: _WhatIf = None,
    report: _Report = None,
    apply: _Apply = False,
    yes: _Yes = False,
    *,
    engine: options.EngineOptions,
) -> None:
    """Find the smallest plan that meets a promise: processes and concurrency of each queue.

    The latency of a message is the time from its submission to the answer of the provider that
    accepted it. [bold]Exit code 1[/bold]: no plan meets the targets; docs/capacity.md has the model.

    [bold]Examples[/bold]

    [cyan]smsengine plan --from-activity 30d --target "express p99 <= 2s"[/cyan]

    [cyan]smsengine plan --from-activity 30d --target "express p99 <= 2s" --apply[/cyan]

    [cyan]smsengine plan --peaks peaks.csv --response-times "p50=80ms,p90=150ms,p99=900ms"
    --target "express p99 <= 2s" --target "normal p95 <= 10min" --report plan.html[/cyan]
    """
    from supervisor.cli.planning import Given, make_plan

    given = Given(
        peaks_file=peaks_file, from_activity=from_activity, response_times=response_times_given or [],
        targets=target, throughput=throughput, express_share=express_share, window=window, segments=segments,
        failures=failures, processes_max=processes_max, cores=cores, costs_file=costs_file,
        what_if=what_if or [], report=report, apply=apply, yes=yes,
    )  # fmt: skip
    if not make_plan(given, engine):
        raise typer.Exit(1)
