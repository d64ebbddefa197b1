"""One endpoint delays nobody: what waits for it is bounded in memory, and others have their turn."""

from __future__ import annotations

import asyncio

from tests.webhooks.receiver import OK, Receiver, Told, answer
from tests.webhooks.world import WebhookWorld, until


async def test_an_endpoint_that_never_answers_delays_nobody_and_takes_no_memory(
    world: WebhookWorld, receiver: Receiver
) -> None:
    silent, other = await world.organisation(), await world.organisation()
    await world.book.create(silent, receiver.url("/silent"))
    await world.book.create(other, receiver.url("/other"))
    hang = asyncio.Event()

    async def answers(told: Told, writer: asyncio.StreamWriter) -> bytes:
        if told.path == "/silent":
            await hang.wait()
        return OK

    receiver.answers = answers
    events = 2_000
    async with world.notifying(timeout_s=60.0) as running:
        for _ in range(20):
            await world.happen(*(world.row(silent) for _ in range(events // 20)))
        await world.happen(*(world.row(other) for _ in range(50)))

        async def others_are_told() -> bool:
            return sum(told.path == "/other" for told in receiver.told) >= 50

        await until(others_are_told, 60.0)
        # No more of the other is in flight than its share.
        assert sum(told.path == "/silent" for told in receiver.told) == 8

        async def all_are_kept() -> bool:
            return running.notifier.in_hand <= 8

        await until(all_are_kept, 60.0)
        hang.set()
        seen: set[str] = set()

        async def all_are_told() -> bool:
            seen.update(told.id for told in receiver.told if told.path == "/silent")
            return len(seen) == events

        await until(all_are_told, 60.0)


async def test_an_endpoint_that_fails_is_left_alone_but_for_a_probe(
    world: WebhookWorld, receiver: Receiver
) -> None:
    organisation = await world.organisation()
    await world.book.create(organisation, receiver.url())

    async def fail(told: Told, writer: asyncio.StreamWriter) -> bytes:
        return answer(503)

    receiver.answers = fail
    async with world.notifying(connections=1) as running:
        await world.happen(*(world.row(organisation) for _ in range(300)))

        async def all_are_kept() -> bool:
            return running.notifier.in_hand == 0 and len(await world.kept(organisation)) == 300

        await until(all_are_kept)
        assert len(receiver.told) == 3
        assert running.sender.open_circuits == 1
        # What comes now is kept at once.
        await world.happen(*(world.row(organisation) for _ in range(100)))

        async def those_too() -> bool:
            return len(await world.kept(organisation)) == 400

        await until(those_too)
        assert len(receiver.told) == 3
        await until(world.settled)


async def test_an_organisation_with_many_slow_deliveries_leaves_room_for_others(
    world: WebhookWorld, receiver: Receiver
) -> None:
    many, other = await world.organisation(), await world.organisation()
    await world.book.create(other, receiver.url("/other"))
    hang = asyncio.Event()

    async def answers(told: Told, writer: asyncio.StreamWriter) -> bytes:
        if told.path == "/many":
            await hang.wait()
        return OK

    receiver.answers = answers
    async with world.notifying(timeout_s=60.0, connections=100) as running:
        await world.happen(*(world.row(many, callback_url=receiver.url("/many")) for _ in range(150)))

        async def has_its_share() -> bool:
            return running.sender.in_flight >= 100

        await until(has_its_share)
        await world.happen(world.row(other))

        async def other_is_told() -> bool:
            return any(told.path == "/other" for told in receiver.told)

        await until(other_is_told)
        assert running.sender.in_flight <= 101
        hang.set()
