"""Every event reaches its endpoints at least once, under one id, wherever notifiers stop and however
receivers answer."""

from __future__ import annotations

import asyncio
import time

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from engine.shards import shard_of
from engine.stores.postgres.webhook_status import webhook_status
from engine.webhooks.records import WebhookEvent
from tests.webhooks.receiver import OK, Receiver, Told, answer
from tests.webhooks.world import SHARDS, WebhookWorld, until


async def count(receiver: Receiver, number: int) -> None:
    async def told() -> bool:
        return len(receiver.told) >= number

    await until(told)


async def failed(world: WebhookWorld, organisation: int, number: int = 1) -> None:
    async def are() -> bool:
        kept = await world.kept(organisation)
        return len(kept) == number and all(d.state == "failed" for d in kept)

    await until(are)


async def nothing_kept(world: WebhookWorld, organisation: int) -> None:
    async def none() -> bool:
        return not await world.kept(organisation)

    await until(none)


async def test_an_event_is_signed_as_the_official_library_reads_it_with_both_secrets(
    world: WebhookWorld, receiver: Receiver
) -> None:
    organisation = await world.organisation()
    made = await world.book.create(organisation, receiver.url("/hook?a=b"))
    newer = await world.book.rotate(organisation, made.endpoint.id, 60)
    newest = await world.book.rotate(organisation, None, 60)
    row = world.row(organisation, callback_url=receiver.url("/callback"))
    async with world.notifying():
        await world.happen(row, world.row(organisation, "accepted"), world.row(organisation, "retrying"))
        await count(receiver, 2)
        await until(world.settled)
    by_path = {told.path: told for told in receiver.told}
    assert set(by_path) == {"/hook?a=b", "/callback"}
    told = by_path["/hook?a=b"]
    assert {t.id for t in receiver.told} == {told.id}
    for secret in (made.secret, newer.secret):
        assert Webhook(secret).verify(told.body, told.headers)["type"] == "message.delivered"
    assert Webhook(newest.secret).verify(by_path["/callback"].body, by_path["/callback"].headers)
    document = told.document
    assert document["timestamp"].endswith("Z")
    assert document["data"]["id"] == row.message_id
    assert document["data"]["status"] == "delivered"
    assert document["data"]["reference"] == "order 7"
    assert document["data"]["sequence"] > 0
    assert await world.kept(organisation) == []


async def test_after_a_rotation_without_overlap_the_old_secret_signs_no_longer_than_the_answer_says(
    world: WebhookWorld, receiver: Receiver
) -> None:
    organisation = await world.organisation()
    made = await world.book.create(organisation, receiver.url("/hook"))
    signed: list[tuple[float, set[str]]] = []

    def look(secrets: dict[str, str]) -> None:
        for told in receiver.told[len(signed) :]:
            whose = {name for name, secret in secrets.items() if _signed_with(secret, told)}
            signed.append((time.time(), whose))

    async with world.notifying():
        await world.happen(world.row(organisation))
        await count(receiver, 1)
        newer = await world.book.rotate(organisation, made.endpoint.id, 0)
        assert newer.endpoint.previous_secret_until is not None
        until_s = newer.endpoint.previous_secret_until.timestamp()
        assert until_s - time.time() <= 3.0
        secrets = {"old": made.secret, "new": newer.secret}
        while not signed or signed[-1][0] < until_s + 0.5:
            seen = len(receiver.told)
            await world.happen(world.row(organisation))
            await count(receiver, seen + 1)
            look(secrets)
    assert signed[0][1] == {"old"}
    assert {frozenset(whose) for at_s, whose in signed if at_s >= until_s + 0.2} == {frozenset({"new"})}
    assert all(whose for _, whose in signed)


def _signed_with(secret: str, told: Told) -> bool:
    try:
        Webhook(secret).verify(told.body, told.headers)
    except WebhookVerificationError:
        return False
    return True


async def test_an_endpoint_is_told_of_the_types_that_it_names_and_a_callback_of_all(
    world: WebhookWorld, receiver: Receiver
) -> None:
    organisation = await world.organisation()
    some = (await world.book.create(organisation, receiver.url("/some"), ["message.failed"])).endpoint
    await world.book.create(organisation, receiver.url("/all"))
    shard = shard_of(organisation, SHARDS)

    def told() -> dict[str, list[str]]:
        paths = sorted({one.path for one in receiver.told})
        return {p: sorted(one.document["type"] for one in receiver.told if one.path == p) for p in paths}

    async with world.notifying() as running:
        await world.happen(
            world.row(organisation, "failed"),
            world.row(organisation, "delivered", callback_url=receiver.url("/some")),
            world.row(organisation, "sent"),
        )
        await count(receiver, 5)
        await until(world.settled)
        # What is the callback URL, too, is told of the message, if not as an endpoint.
        assert told() == {
            "/all": ["message.delivered", "message.failed", "message.sent"],
            "/some": ["message.delivered", "message.failed"],
        }
        receiver.told.clear()
        await world.book.set_events(organisation, some.id, ["message.received"])
        await running.notifier._table.refresh()
        for number, kind in enumerate(("message.received", "webhook.test")):
            event = WebhookEvent(
                id=f"evt_{number}", organisation_id=organisation, type=kind, at_us=1, data="{}",
                endpoint_id=some.id if kind == "webhook.test" else 0,
            )  # fmt: skip
            await world.streams.put(shard, [event])
        await count(receiver, 3)
        await until(world.settled)
        assert told() == {"/all": ["message.received"], "/some": ["message.received", "webhook.test"]}


async def test_what_fails_is_tried_again_with_its_id_and_kept_meanwhile(
    world: WebhookWorld, receiver: Receiver
) -> None:
    organisation = await world.organisation()
    endpoint = (await world.book.create(organisation, receiver.url())).endpoint
    answers = [answer(500), answer(429), answer(302, b"Location: http://127.0.0.1/\r\n"), OK]

    async def in_turn(told: Told, writer: asyncio.StreamWriter) -> bytes:
        return answers[len(receiver.told) - 1]

    receiver.answers = in_turn
    async with world.notifying():
        await world.happen(world.row(organisation, "failed"))
        for attempts in (1, 2, 3):
            await count(receiver, attempts)

            async def kept(attempts: int = attempts) -> bool:
                return [d.attempts for d in await world.kept(organisation)] == [attempts]

            await until(kept)
            [delivery] = await world.kept(organisation)
            assert (delivery.state, delivery.last_status) == ("waiting", (500, 429, 302)[attempts - 1])
            await world.due_now()
            if attempts == 3:
                # The circuit is open after three failures; the next notifier knows nothing of it.
                break
    async with world.notifying():
        await count(receiver, 4)
        await nothing_kept(world, organisation)
    assert len(set(receiver.ids)) == 1
    assert len({told.body for told in receiver.told}) == 1
    [taken] = await world.streams.made(shard_of(organisation, SHARDS), endpoint.id)
    assert (taken.event_id, taken.attempts) == (receiver.ids[0], 4)


async def test_an_endpoint_that_takes_deliveries_again_does_not_fail_while_an_older_one_waits(
    world: WebhookWorld, receiver: Receiver
) -> None:
    organisation = await world.organisation()
    await world.book.create(organisation, receiver.url())
    # Refused at every attempt: the first event.
    refused: list[str] = []

    async def but_the_first(told: Told, writer: asyncio.StreamWriter) -> bytes:
        refused[:] = refused or [told.id]
        return answer(503) if told.id in refused else OK

    receiver.answers = but_the_first

    async def fail(number: int, attempts: int) -> None:
        async def do() -> bool:
            async with world.pool.connection() as connection:
                status = await webhook_status(connection, SHARDS)
            mine = [one for one in status.failing if one.organisation_id == organisation]
            waiting = [d.attempts for d in await world.kept(organisation)]
            return (len(mine), waiting) == (number, [attempts])

        await until(do)

    async with world.notifying(kill=True):
        await world.happen(world.row(organisation))
        await fail(1, attempts=1)
        await world.happen(world.row(organisation))
        await fail(0, attempts=1)
        await world.due_now()
        await fail(1, attempts=2)
        await world.happen(world.row(organisation))
        await fail(0, attempts=2)
    # The next notifier knows nothing of it.
    async with world.notifying():
        await fail(0, attempts=2)
        await world.due_now()
        await fail(1, attempts=3)
        await world.happen(world.row(organisation))
        await fail(0, attempts=3)


async def test_a_refusal_ends_a_delivery_until_it_is_replayed(
    world: WebhookWorld, receiver: Receiver
) -> None:
    organisation = await world.organisation()
    await world.book.create(organisation, receiver.url())

    async def refuse(told: Told, writer: asyncio.StreamWriter) -> bytes:
        return answer(404)

    receiver.answers = refuse
    async with world.notifying():
        await world.happen(*(world.row(organisation) for _ in range(3)))
        await failed(world, organisation, 3)
        receiver.answers = Receiver().answers
        first, *_ = await world.kept(organisation)
        assert (first.last_status, first.attempts) == (404, 1)
        assert (await world.book.replay(organisation, first.id)).state == "waiting"
        await count(receiver, 4)
        assert receiver.ids[3] == first.event_id
        assert await world.book.replay_since(organisation, first.failed_at.replace(year=2020)) == 2
        await count(receiver, 6)
        await nothing_kept(world, organisation)
    assert len(set(receiver.ids)) == 3


async def test_what_an_endpoint_took_is_listed_the_last_of_it(
    world: WebhookWorld, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.stores.redis.webhook_stream.MADE_MAX", 3)
    organisation = await world.organisation()
    endpoint = (await world.book.create(organisation, receiver.url())).endpoint
    shard = shard_of(organisation, SHARDS)
    for number in (1, 2):
        async with world.notifying():
            await world.happen(*(world.row(organisation, "sent") for _ in range(2)))
            await count(receiver, 2 * number)
            await until(world.settled)
        # One that ends has written what it noted.
        made = await world.streams.made(shard, endpoint.id)
        assert {m.event_id for m in made[:2]} == set(receiver.ids[-2:])
    assert (len(made), len({m.event_id for m in made})) == (3, 3)
    assert {(m.type, m.url, m.status, m.attempts) for m in made} == {("message.sent", receiver.url(), 200, 1)}
    assert all(m.duration_ms > 0 and m.at_us >= m.event_at_us for m in made)
    assert await world.streams.made(shard, endpoint.id + 1) == []


async def test_rows_that_were_archived_unread_are_read_in_the_archive(
    world: WebhookWorld, receiver: Receiver
) -> None:
    organisation, other = await world.organisation(), await world.organisation()
    await world.book.create(organisation, receiver.url())
    async with world.notifying():
        await world.happen(world.row(organisation))
        await count(receiver, 1)
        await until(world.settled)
    rows = [world.row(organisation), world.row(other), world.row(other, callback_url=receiver.url("/c"))]
    await world.happen(*rows)
    await world.happen(world.row(organisation, "failed"))
    await world.archive()
    late = world.row(organisation, "sent")
    await world.happen(late)
    async with world.notifying():
        await count(receiver, 5)
    assert {told.data["id"] for told in receiver.told[1:]} >= {
        rows[0].message_id,
        rows[2].message_id,
        late.message_id,
    }
    assert len(set(receiver.ids)) == 5


async def test_an_event_that_others_queue_is_told_to_one_endpoint_or_all(
    world: WebhookWorld, receiver: Receiver
) -> None:
    organisation = await world.organisation()
    one = await world.book.create(organisation, receiver.url("/one"))
    await world.book.create(organisation, receiver.url("/two"))
    shard = shard_of(organisation, SHARDS)
    event = WebhookEvent(
        id="evt_in_1", organisation_id=organisation, type="message.received", at_us=1, data='{"text":"é"}'
    )
    # Before the first notifier that there is.
    await world.streams.put(shard, [event])
    async with world.notifying():
        await count(receiver, 2)
        test = WebhookEvent(
            id="evt_t_1", organisation_id=organisation, type="webhook.test", at_us=1, data="{}",
            endpoint_id=one.endpoint.id,
        )  # fmt: skip
        await world.streams.put(shard, [test])
        await count(receiver, 3)

        # It was taken off the stream when it was settled.
        async def taken() -> bool:
            return int(await world.activity.redis.xlen(f"webhooks:{{{shard}}}")) == 0

        await until(taken)
    assert sorted(told.path for told in receiver.told) == ["/one", "/one", "/two"]
    assert receiver.told[0].data == {"text": "é"}
    assert receiver.told[2].document["type"] == "webhook.test"


async def test_an_event_for_an_endpoint_that_was_just_made_is_told(
    world: WebhookWorld, receiver: Receiver
) -> None:
    organisation = await world.organisation()
    async with world.notifying():
        made = await world.book.create(organisation, receiver.url())
        test = WebhookEvent(
            id="evt_t_2", organisation_id=organisation, type="webhook.test", at_us=1, data="{}",
            endpoint_id=made.endpoint.id,
        )  # fmt: skip
        await world.streams.put(shard_of(organisation, SHARDS), [test])
        await count(receiver, 1)
    assert receiver.ids == ["evt_t_2"]


async def test_a_notifier_killed_after_a_delivery_delivers_it_again_with_the_same_id(
    world: WebhookWorld, receiver: Receiver
) -> None:
    organisation = await world.organisation()
    await world.book.create(organisation, receiver.url())
    async with world.notifying(kill=True):
        await world.happen(*(world.row(organisation) for _ in range(20)))
        await count(receiver, 20)
    first = set(receiver.ids)
    async with world.notifying():
        await count(receiver, 40)
        await until(world.settled)
    assert set(receiver.ids) == first


async def test_shards_are_shared_and_those_of_one_that_is_killed_are_taken_over(
    world: WebhookWorld, receiver: Receiver
) -> None:
    organisations = [await world.organisation() for _ in range(8)]
    for organisation in organisations:
        await world.book.create(organisation, receiver.url())
    async with world.notifying("a") as a:
        async with world.notifying("b", kill=True) as b:

            async def shared() -> bool:
                return sorted([*a.notifier.shards, *b.notifier.shards]) == list(range(SHARDS))

            await until(shared)
            assert len(b.notifier.shards) == SHARDS // 2
            await world.happen(*(world.row(o) for o in organisations))
            await count(receiver, 8)
            await until(world.settled)
        await world.happen(*(world.row(o) for o in organisations))

        async def all_are_told() -> bool:
            return len(set(receiver.ids)) == 16

        await until(all_are_told)
