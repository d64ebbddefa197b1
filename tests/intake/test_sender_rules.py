"""Who may use which sender, and send where: the rules, and the table that follows PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from engine.errors import Refusal, Unavailable
from engine.intake.records import SenderRules
from engine.intake.sender_rules import DestinationRules, OwnRules, kind_of
from engine.intake.sender_table import SenderTable
from engine.stores.postgres.directory import Directory
from engine.stores.postgres.sender_rules import SenderBook
from tests.adversity.proxy import Proxy

TO = "+4915112345678"


@pytest.fixture
async def directory(books_url: str) -> AsyncIterator[Directory]:
    directory = await Directory.connect(books_url, shards=16)
    yield directory
    await directory.close()


def test_a_sender_is_a_name_a_short_code_or_a_number() -> None:
    found = {text: kind_of(text) for text in ("ACME", "2go", "123", "12345678", "123456789", TO)}
    assert list(found.values()) == ["name", "name", "short", "short", "long", "long"]


@pytest.mark.parametrize(
    ("rules", "sender", "outcome"),
    [
        (SenderRules(), "ANY", "ANY"),
        (SenderRules(), "", ""),
        (SenderRules(default="ACME"), "", "ACME"),
        (SenderRules(default="ACME"), "OTHER", "OTHER"),
        (SenderRules(senders=("ACME", "12345")), "12345", "12345"),
        (SenderRules(senders=("ACME",)), "acme", "sender_not_allowed"),
        (SenderRules(senders=()), "ACME", "sender_not_allowed"),
        (SenderRules(senders=("ACME",)), "", ""),
        (SenderRules(destinations=("+49", "+1")), "ACME", "ACME"),
        (SenderRules(destinations=("+43", "+4916")), "ACME", "destination_not_allowed"),
        (SenderRules(destinations=()), "", "destination_not_allowed"),
    ],
)
def test_an_organisation_uses_its_senders_and_sends_to_its_destinations(
    rules: SenderRules, sender: str, outcome: str
) -> None:
    try:
        found = OwnRules(rules).sender(TO, sender)
    except Refusal as refusal:
        found = refusal.code
    assert found == outcome


def test_a_destination_takes_the_kinds_of_senders_of_its_longest_prefix() -> None:
    rules = DestinationRules(
        {"": ("name", "short", "long"), "+49": ("short", "long"), "+4915": (), "+1": ("long",)}
    )
    rules.check("+431234567890", "ACME")
    rules.check("+493012345678", "12345")
    rules.check("+493012345678", "")
    for to, sender, field in (
        ("+493012345678", "ACME", "from"),
        (TO, "", "to"),
        ("+14155550123", "123", "from"),
    ):
        with pytest.raises(Refusal) as refused:
            rules.check(to, sender)
        assert refused.value.field == field
    with pytest.raises(
        Refusal, match="a short code of up to 8 digits or a phone number for this destination"
    ):
        rules.check("+493012345678", "ACME")


async def test_changes_are_followed_and_the_last_known_stay_while_postgres_is_away(
    directory: Directory, books_url: str
) -> None:
    one, other = [(await directory.create_organisation(name)).id for name in ("one", "other")]
    book = SenderBook(directory.pool)
    await book.change(one, {"senders": ("ACME", "ACME", "00 49 151 12345678")})
    assert (await book.of(one)).senders == ("ACME", TO)
    async with Proxy.to(books_url) as proxy:
        far = await Directory.connect(proxy.url(books_url), shards=16)
        table = SenderTable(SenderBook(far.pool))
        with pytest.raises(Unavailable, match="not known yet"):
            table.sender(one, TO, "ACME")
        await table.refresh()
        assert table.sender(one, TO, "00 49 151 12345678".replace(" ", "").replace("00", "+", 1)) == TO
        with pytest.raises(Refusal):
            table.sender(one, TO, "OTHER")
        assert table.sender(other, TO, "OTHER") == "OTHER"
        await book.replace_destinations({"+49": ("short",)})
        await book.change(one, {"senders": None, "default": "12345"})
        await table.refresh()
        assert table.sender(one, TO, "") == "12345"
        with pytest.raises(Refusal):
            table.sender(other, TO, "OTHER")
        proxy.refuse()
        proxy.cut()
        await book.replace_destinations({})
        await book.change(one, {"default": ""})
        await table.refresh()
        assert table.sender(one, TO, "") == "12345"
        proxy.admit()
        await table.refresh()
        assert (table.sender(one, TO, ""), table.sender(other, TO, "OTHER")) == ("", "OTHER")
        await far.close()
