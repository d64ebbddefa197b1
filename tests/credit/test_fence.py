"""A fence says that it is done only when it is; what runs it then tries again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.boot import fence
from engine.config import Config, Redis
from engine.redis_keys import holders_key, usage_key
from engine.stores.redis.admission import RedisAdmission
from engine.stores.redis.link import Command, RedisLink, load_functions
from supervisor.embedded.servers import start_redis
from supervisor.process.child import ChildFailed, run_once

SHARDS = 4


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of its own, from which functions and permissions can be taken."""
    server = start_redis(tmp_path_factory.mktemp("fence"))
    yield server.url
    server.stop(10)


def configured(url: str) -> Config:
    return Config(node="here", shards=SHARDS, redis=Redis(url=url))


def ask(url: str, *commands: Command) -> list[object]:
    async def main() -> list[object]:
        link = RedisLink(url, timeout_s=5, name="test")
        try:
            return await link.batch(commands)
        finally:
            await link.close()

    return asyncio.run(main())


def begin(url: str, *names: str) -> None:
    """An emptied Redis with these holders."""

    async def main() -> None:
        link = RedisLink(url, timeout_s=5, name="test")
        await link.call("FLUSHALL")
        await load_functions(link)
        for name in names:
            await RedisAdmission(link, link, SHARDS).register(name)
        await link.close()

    asyncio.run(main())


def holders(url: str) -> set[object]:
    replies = ask(url, *[("HKEYS", holders_key(s)) for s in range(SHARDS)])
    return {name for reply in replies for name in reply}  # type: ignore[attr-defined]


def run_as_the_supervisor_does(url: str, names: list[str]) -> object:
    return run_once(lambda: fence(configured(url), names), title="fence", timeout_s=20)


def test_all_of_this_node_are_fenced_and_no_other(url: str) -> None:
    begin(url, "here.ingest.1", "here.ingest.2", "there.ingest.1")
    assert run_as_the_supervisor_does(url, []) == 0
    assert holders(url) == {b"there.ingest.1"}
    assert run_as_the_supervisor_does(url, ["there.ingest.1"]) == 0
    assert holders(url) == set()


def test_a_fence_that_redis_refuses_at_every_step_is_not_done(url: str) -> None:
    begin(url, "here.ingest.1")
    for shard in range(4):
        aside = f"aside:{{{shard}}}"
        ask(url, ("RENAME", holders_key(shard), aside), ("SET", holders_key(shard), "not a hash"))
    with pytest.raises(ChildFailed, match=r"Redis refused 4 of 4 steps of a fence: .*WRONGTYPE.*"):
        run_as_the_supervisor_does(url, ["here.ingest.1"])
    for shard in range(4):
        ask(url, ("RENAME", f"aside:{{{shard}}}", holders_key(shard)))
    assert holders(url) == {b"here.ingest.1"}


def test_a_fence_on_a_redis_without_the_functions_is_not_done_and_the_next_one_is(url: str) -> None:
    begin(url, "here.ingest.1")
    ask(url, ("FUNCTION", "FLUSH"))
    with pytest.raises(ChildFailed, match="lost the engine's functions"):
        run_as_the_supervisor_does(url, ["here.ingest.1"])
    assert holders(url) == {b"here.ingest.1"}
    assert run_as_the_supervisor_does(url, ["here.ingest.1"]) == 0
    assert holders(url) == set()


def test_a_fence_that_redis_refuses_in_one_shard_is_not_done_and_the_next_one_is(url: str) -> None:
    begin(url, "here.ingest.1")
    ask(url, ("RENAME", holders_key(2), "aside"), ("SET", holders_key(2), "not a hash"))
    with pytest.raises(ChildFailed, match="Redis refused 1 of 4 steps of a fence: "):
        run_as_the_supervisor_does(url, ["here.ingest.1"])
    ask(url, ("RENAME", "aside", holders_key(2)))
    assert holders(url) == {b"here.ingest.1"}
    assert run_as_the_supervisor_does(url, ["here.ingest.1"]) == 0
    assert holders(url) == set()


def test_a_fence_that_fails_half_way_can_be_repeated(url: str) -> None:
    begin(url, "here.ingest.1")
    usage = usage_key(1)
    ask(url, ("SET", usage, "not a stream"))
    with pytest.raises(ChildFailed, match=r"Redis refused 1 of 4 steps of a fence: .*WRONGTYPE"):
        run_as_the_supervisor_does(url, ["here.ingest.1"])
    assert holders(url) == {b"here.ingest.1"}
    ask(url, ("DEL", usage))
    assert run_as_the_supervisor_does(url, ["here.ingest.1"]) == 0
    assert holders(url) == set()
    markers = ask(url, *[("XRANGE", usage_key(s), "-", "+") for s in range(SHARDS)])
    assert [[entry[1][:4] for entry in of_shard] for of_shard in markers] == [  # type: ignore[attr-defined]
        [[b"k", b"fence", b"h", b"here.ingest.1"]]
    ] * SHARDS


def test_when_redis_does_not_say_who_is_registered_nothing_counts_as_fenced(url: str) -> None:
    begin(url, "here.ingest.1")
    ask(url, ("SET", holders_key(1), "not a hash"))
    with pytest.raises(ChildFailed, match="Redis does not say who is registered: WRONGTYPE"):
        run_as_the_supervisor_does(url, [])


def test_a_redis_that_is_away_is_no_fence(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match="cannot be reached"):
        run_as_the_supervisor_does("redis://127.0.0.1:9/0", ["here.ingest.1"])
