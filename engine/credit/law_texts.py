"""The laws of the books as text: what each says, what it is counted in, what to do when it is broken."""

from __future__ import annotations

from typing import Literal

Law = Literal["conservation", "quotas", "journal", "held", "queues", "activity", "checkpoints", "unbooked"]

# Of each law: (its formula, "organisations" or "shards", advice for an operator).
LAWS: dict[Law, tuple[str, str, str]] = {
    "conservation": (
        "top-ups = available + granted + held + captured",
        "organisations",
        "Somebody or something other than the engine has written the table `accounts`. Its journal"
        " (table `journal`) says what the account must be.",
    ),
    "quotas": (
        "granted = sum of the holders' quotas",
        "organisations",
        "Something other than the engine has written `accounts` or `quotas`. Keep a copy of the database"
        " and report it; until then the units that are granted too much are in nobody's hands.",
    ),
    "journal": (
        "accounts = sums of the journal",
        "organisations",
        "Something other than the engine has written `accounts` or `journal`, or a backup was restored in"
        " part. Compare the organisation's rows in both with the last backup.",
    ),
    "held": (
        "held in the books, brought forward = held in Redis",
        "shards",
        "Something other than the engine has written Redis or `accounts`. Keep copies of both and report it;"
        " the organisations of these shards may have units held for no message.",
    ),
    "queues": (
        "held in Redis = units of the messages waiting or in hand",
        "shards",
        "Messages were removed from or put into Redis by something other than the engine. Keep a copy of"
        " Redis and report it.",
    ),
    "activity": (
        "units held, captured and released by recorded events = by the books",
        "organisations",
        "If PostgreSQL lost usage (`smsengine status` says so): run `smsengine books repair --from-activity`."
        " Otherwise rows of the table `activity` are missing, or there twice: look at the organisation's rows"
        " since the last clean audit, and into the archiver's log for entries that it put aside.",
    ),
    "checkpoints": (
        "what earlier audits verified is as they wrote it",
        "shards",
        "The tables `audit_checkpoints` or `audit_sums` were changed. Run `smsengine audit --full`: it sums"
        " everything anew and writes new checkpoints where all is clean.",
    ),
    "unbooked": (
        "no usage waits to be booked",
        "organisations",
        "PostgreSQL went back, and a top-up or an organisation is gone whose units were used. These"
        " organisations are suspended. `smsengine books repair` lists them and says what to do.",
    ),
}
