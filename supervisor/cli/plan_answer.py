"""The answer of `smsengine plan`: the facts of a plan, and what was applied."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from engine.capacity import plan_answer
from engine.capacity.plan import Bounds, Plan
from engine.capacity.plan_answer import PlanAnswer
from engine.capacity.targets import Target
from engine.errors import ConfigError
from supervisor.cli.plan_apply import Change


class Answer(PlanAnswer, frozen=True, kw_only=True):
    """The whole answer."""

    # With --apply: what has changed.
    applied: list[Change] = []


def answer(
    plan: Plan,
    targets: Sequence[Target],
    bounds: Bounds,
    *,
    cores_per_node: float,
    questions: Sequence[str],
    warnings: Sequence[str],
) -> Answer:
    """All facts of a plan. Raises ConfigError for a question that is not understood."""
    try:
        facts = plan_answer.answer(
            plan, targets, bounds, cores_per_node=cores_per_node, questions=questions, warnings=warnings
        )
    except ValueError as e:
        raise ConfigError(f"--what-if {e}.") from e
    return Answer(**msgspec.structs.asdict(facts))
