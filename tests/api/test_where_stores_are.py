"""A store that is away: its operators are told where it is, its customers are not."""

from __future__ import annotations

import json

import pytest

from engine.api.compatible import twilio
from engine.api.guard import problem
from engine.api.response import Response
from engine.errors import Unavailable


def text_of(response: Response) -> str:
    return response._whole_body.decode()


@pytest.mark.parametrize(
    ("detail", "told"),
    [
        ("ClickHouse at http://10.0.0.7:8123 fails: it is full.", "ClickHouse fails: it is full."),
        ("The answer of ClickHouse at http://a:8123 is cut.", "The answer of ClickHouse is cut."),
        ("Redis at redis+sentinel://a:26379,b:26379/m is away.", "Redis is away."),
        ("Redis at 10.0.0.5:6379 is not the master any more.", "Redis is not the master any more."),
        ("Redis at unix:///run/redis.sock; later.", "Redis; later."),
        ("No more than can be counted at one instant: 3.", "No more than can be counted at one instant: 3."),
    ],
)
def test_operators_alone_are_told_where_a_store_is(detail: str, told: str) -> None:
    def said(route: str) -> str:
        return str(json.loads(text_of(problem(Unavailable(detail), "r", "GET", route)))["detail"])

    assert said("/v1/messages") == told
    assert said("/v1/admin/organisations/{id}/messages") == detail
    assert said("/console/api/v1/admin/status") == detail
    assert json.loads(text_of(twilio._refused(Unavailable(detail))))["message"] == told
