"""The operator's calls on what providers sent that was not understood."""

from __future__ import annotations

from engine.problem_records import Noted, Problem, ProblemKind
from engine.stores.postgres.directory import Directory
from engine.stores.redis.link import RedisLink
from engine.stores.redis.problems import RedisProblems
from tests.api.world import services_with, serving


async def test_problems_are_shown_by_provider_and_kind(directory: Directory, redis_url: str) -> None:
    link = RedisLink(redis_url.rpartition("/")[0] + "/11", timeout_s=5, name="problems")
    await link.call("FLUSHDB")
    problems = RedisProblems(link)
    await problems.add([Noted("first", ProblemKind.receipt_state, 7, (Problem(5, "WEIRD"),))])
    async with serving(await services_with(directory, provider_problems=problems)) as api:
        status, every = await api.admin("GET", "/problems")
        assert status == 200
        (one,) = every["problems"]
        assert (one["provider"], one["kind"], one["last_hour"], one["total"]) == (
            "first", "receipt_state", 7, 7,
        )  # fmt: skip
        assert (one["last_at_us"], len(one["hours"]), one["samples"]) == (5, 48, [])
        status, first = await api.admin("GET", "/providers/first/problems")
        assert (status, first["problems"][0]["samples"]) == (200, [{"at_us": 5, "sample": "WEIRD"}])
        assert await api.admin("GET", "/providers/second/problems") == (200, {"problems": []})
        assert (await api.admin("GET", "/providers/third/problems"))[0] == 404
        assert (await api.ask("GET", "/v1/admin/problems", key="x"))[0] == 401
    await link.close()
