"""Messages of every kind, and what balance, reports, lists and exports say of them beside their histories."""

from __future__ import annotations

import csv
import io
import json
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.system.client import Caller, eventually
from tests.system.conftest import Engine

TOP_UP = 2_000
# So many ask for histories at a time.
CALLERS = 8
# The longest that may be sent: ten segments, of GSM-7 and of UCS-2.
TEXTS = (
    "Your code is 1234", "Price: 5 € [net] {today}", "x" * 160, "x" * 161, "€" * 81, "y" * 153 * 10,
    "کد شما ۱۲۳۴", "Grüße 👋" * 12, "السلام عليكم " * 11, "こんにちは、ご予約を確認しました。",
    "ओटीपी १२३४ है", "Ваш код. " * 14, "你" * 70, "你" * 67 * 10, "รหัสของคุณคือ 1234", "האקוד שלך",
)  # fmt: skip
# Of each country, the numbers of the messages; the last one has opted out.
PLACES = {"IR": "+989121234567", "DE": "+4915112345678", "CA": "+14165550123", "US": "+12125550123",
          "KZ": "+77012345678", "GB": "+447700900123"}  # fmt: skip
OPTED_OUT, NO_NUMBER = "+4915112345679", "+49"


class Kinds:
    """An organisation, and messages of every kind that it sends."""

    def __init__(self, engine: Engine, top_up: int = TOP_UP) -> None:
        self.engine = engine
        self.top_up = top_up
        self.admin = Caller(engine.admin_url, engine.admin_key)
        made = self.admin.call("POST", "/v1/admin/organisations", {"name": "reported"})[1]
        self.id: int = made["id"]
        self.own = Caller(engine.url, made["api_key"])
        self.messages: list[dict[str, Any]] = []
        self.refused = Counter[str]()
        self._ids: list[str] = []
        paid = {"units": top_up, "reference": "r1"}
        assert self.admin.call("POST", f"/v1/admin/organisations/{self.id}/top-ups", paid)[0] == 201
        assert self.own.call("POST", "/v1/opt-outs", {"numbers": [OPTED_OUT]})[0] == 200
        # None of them is ever accepted; which is refused first says whether the opt-out is in force.
        both = {"messages": [{"to": to, "text": "no"} for to in (OPTED_OUT, NO_NUMBER)], "atomic": True}
        eventually(lambda: self.own.call("POST", "/v1/messages/batch", both)[1]["code"] == "opted_out")

    def send(self, count: int, **fields: Any) -> list[str]:
        """Send so many, of all texts to all places in both queues, and two that are refused; the ids."""
        places = list(PLACES.values())
        wanted = [
            {
                "to": places[n % len(places)], "text": TEXTS[n % len(TEXTS)], "reference": f"r-{n}",
                "queue": ("express", "normal")[n // 3 % 2], **fields,
            }
            for n in range(count)
        ]  # fmt: skip
        ids = self.submit([*wanted, {"to": OPTED_OUT, "text": "no"}, {"to": NO_NUMBER, "text": "no"}])
        assert len(ids) == count, self.refused
        return ids

    def submit(self, wanted: Sequence[Mapping[str, Any]]) -> list[str]:
        """Submit a batch; the ids of those that are accepted."""

        def accepted() -> Any:
            status, answer = self.own.call("POST", "/v1/messages/batch", {"messages": wanted})
            # With this nothing was accepted, and whoever is told so sends it again.
            assert status == 202 or answer["code"] == "unavailable", answer
            return status == 202 and answer

        answer = eventually(accepted)
        ids = [result["id"] for result in answer["results"] if "id" in result]
        self.refused.update(
            str(result["error"]["code"]) for result in answer["results"] if "id" not in result
        )
        self._ids += ids
        return ids

    def cancel(self, message_id: str) -> None:
        """Cancel one that is scheduled."""
        assert self.own.call("POST", f"/v1/messages/{message_id}/cancel")[0] == 200

    def wait(self, ended: Any, within_s: float = 120) -> None:
        """Wait until `ended` is true of the history of each message.

        It fails when one that was asked for after `within_s` has not ended: to ask for all may take longer
        than that on a slow machine, and says nothing of the messages.
        """
        left, found = set(self._ids), dict[str, Any]()
        deadline = time.monotonic() + within_s
        while left:
            late = time.monotonic() >= deadline
            found |= self._histories(sorted(left))
            left = {message_id for message_id in left if not ended(found[message_id])}
            assert not (late and left), [(found[i].get("status"), found[i].get("provider")) for i in left]
            time.sleep(0.2 if left else 0)
        self.messages = [found[message_id] for message_id in self._ids]

    def _histories(self, ids: Sequence[str]) -> dict[str, Any]:
        """The answers by id. Several callers ask, because the engine looks up together what is asked for at
        the same time."""

        def ask(first: int) -> dict[str, Any]:
            caller = Caller(self.engine.url, self.own.key)
            return {i: caller.call("GET", f"/v1/messages/{i}")[1] for i in ids[first::CALLERS]}

        with ThreadPoolExecutor(CALLERS) as pool:
            return {i: told for part in pool.map(ask, range(CALLERS)) for i, told in part.items()}

    def sums(self, by: str) -> dict[str, list[int]]:
        """[messages, segments, units] of the histories, by a field of theirs."""
        found: dict[str, list[int]] = {}
        for message in self.messages:
            sums = found.setdefault(message[by], [0, 0, 0])
            for place, more in enumerate((1, message["segments"], message["units"])):
                sums[place] += more
        return found

    def report(self, *groups: str) -> list[dict[str, Any]]:
        """The rows of a report."""
        status, report = self.own.call("GET", f"/v1/reports/summary?group_by={','.join(groups)}")
        assert (status, report["complete"]) == (200, True)
        return list(report["rows"])

    def export(self, query: str) -> str:
        """The text of an export."""
        request = urllib.request.Request(f"{self.engine.url}/v1/reports/messages?{query}")
        request.add_header("Authorization", f"Bearer {self.own.key}")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(answer.read().decode())

    def agree(self) -> None:
        """All that is said of the messages is what their histories say."""
        by_status = self.sums("status")
        # A status of the report is that of the message but for those that are scheduled.
        wanted = {("accepted" if name == "scheduled" else name): sums for name, sums in by_status.items()}

        def reported() -> bool:
            rows = self.report("status")
            return {r["status"]: [r["messages"], r["segments"], r["units"]] for r in rows} == wanted

        eventually(reported)
        # Nothing is held any more when all have ended.
        charges = {"held": 0} | {name: sums[2] for name, sums in self.sums("charge").items()}
        [whole] = self.report()
        assert whole["messages"] == len(self.messages)
        assert {name: whole[name] for name in ("held", "captured", "released")} == charges
        assert sum(charges.values()) == whole["units"]
        for group in ("country", "queue", "reference"):
            assert sum(row["units"] for row in self.report(group)) == whole["units"]
        for group in ("minute", "hour", "day"):
            rows = self.report(group)
            told_of = [sum(row[name] for row in rows) for name in ("messages", "segments", "units")]
            assert told_of == [whole["messages"], whole["segments"], whole["units"]], group
        places = {number[:-4]: country for country, number in PLACES.items()}
        countries = Counter(places[m["to"][:-4]] for m in self.messages)
        assert {r["country"]: r["messages"] for r in self.report("country")} == countries
        providers = Counter(m["provider"] for m in self.messages if m["status"] in ("sent", "delivered"))
        told = {r["provider"]: r["sent"] + r["delivered"] for r in self.report("provider")}
        assert {name: count for name, count in told.items() if count} == providers

        def booked() -> bool:
            balance = self.own.call("GET", "/v1/balance")[1]
            return bool(balance["posted"] == self.top_up - charges["captured"])

        eventually(booked)
        self._agree_with_exports()

    def _agree_with_exports(self) -> None:
        told = ("id", "status", "charge", "queue", "to", "encoding", "segments", "units", "reference",
                "provider", "attempts")  # fmt: skip
        ordered = sorted(self.messages, key=lambda message: message["id"])
        wanted = [{name: message[name] for name in told} for message in ordered]
        lines = [json.loads(line) for line in self.export("format=jsonl").splitlines()]
        # They are put together in blocks, which come in order, and whose rows come in none.
        lines.sort(key=lambda line: str(line["id"]))
        found = [{name: line[name] for name in told} for line in lines]
        wrong = [pair for pair in zip(found, wanted, strict=True) if pair[0] != pair[1]]
        assert not wrong, wrong
        rows = list(csv.DictReader(io.StringIO(self.export("format=csv"))))
        assert sorted(row["id"] for row in rows) == [message["id"] for message in ordered]
        done = self.engine.run("export", str(self.id), "--rows", "events", "--format", "jsonl")
        events = [(line["id"], line["event"]) for line in map(json.loads, done.stdout.splitlines())]
        assert [name for name, _ in events] == sorted(name for name, _ in events)
        assert Counter(events) == Counter(
            (m["id"], event["event"]) for m in self.messages for event in m["events"]
        )
        listed, cursor = [], ""
        while cursor is not None:
            page = self.own.call("GET", f"/v1/messages?limit=50&cursor={cursor}")[1]
            listed += [(m["id"], m["status"], m["units"]) for m in page["messages"]]
            cursor = page["next"]
        assert listed == [(m["id"], m["status"], m["units"]) for m in reversed(ordered)]
