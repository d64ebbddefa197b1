"""When Redis counts as away for a holder, and when no more."""

from __future__ import annotations

from engine.credit.redis_answers import DEAD_S, SILENT_S, RedisAnswers

_NOW_S = 1000.0


def test_redis_that_owes_an_outcome_for_long_is_away_and_one_that_is_slow_is_not() -> None:
    answers = RedisAnswers()
    answers.sent([3], _NOW_S)
    assert not answers.look(_NOW_S + 0.9 * SILENT_S)
    assert answers.look(_NOW_S + SILENT_S)
    assert answers.obstacle == "Redis gives no answer."


def test_failures_count_from_the_first_one_on_and_an_outcome_ends_them() -> None:
    answers = RedisAnswers()
    assert answers.failed("It is loading.", _NOW_S)
    assert not answers.failed("It is loading.", _NOW_S + 0.9 * DEAD_S)
    assert not answers.look(_NOW_S + 0.9 * DEAD_S)
    answers.answered(_NOW_S + 0.9 * DEAD_S)
    assert not answers.look(_NOW_S + 2 * DEAD_S)
    assert answers.failed("It is loading.", _NOW_S + 2 * DEAD_S)
    assert answers.look(_NOW_S + 3.1 * DEAD_S)
    assert answers.away
    assert answers.obstacle == "It is loading."


def test_one_look_alone_finds_that_redis_has_come_to_be_away() -> None:
    answers = RedisAnswers()
    answers.sent([0], _NOW_S)
    assert answers.look(_NOW_S + SILENT_S)
    assert not answers.look(_NOW_S + 2 * SILENT_S)
    assert answers.away


def test_an_outcome_ends_it_unless_another_is_owed_for_as_long() -> None:
    answers = RedisAnswers()
    answers.sent([0, 1], _NOW_S)
    answers.look(_NOW_S + SILENT_S)
    answers.ended(0)
    answers.answered(_NOW_S + SILENT_S)
    assert answers.away
    answers.ended(1)
    answers.answered(_NOW_S + SILENT_S)
    assert not answers.away
    assert answers.obstacle == ""


def test_nothing_is_owed_in_a_new_epoch() -> None:
    answers = RedisAnswers()
    answers.sent([0], _NOW_S)
    answers.forget()
    assert not answers.look(_NOW_S + 2 * SILENT_S)
