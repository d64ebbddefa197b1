"""What the load sends: seeded organisations, and messages that look like real ones.

One-time codes are short and mostly GSM-7. The other texts have from one word to several segments
and are in part UCS-2. Organisations are as uneven as customers are: by Zipf's law.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import msgspec

_CODES = (
    "Your code is {n:06d}. Do not share it with anyone.",
    "{n:06d} is your verification code.",
    "<#> {n:06d} is your login code. It expires in 5 minutes. kXw9d2fQpLe",
    "رمز ورود شما: {n:06d}",
    "รหัส OTP ของคุณคือ {n:06d} ห้ามแจ้งรหัสกับบุคคลอื่น",
    "Ihr Bestätigungscode lautet {n:06d}. Gültig für 10 Minuten.",
)
_NOTICES = (
    "Your parcel {n:08d} arrives today between 14:00 and 16:00. Track it at example.com/t/{n:x}",
    "Reminder: your appointment is tomorrow at 09:30. Reply C to confirm or R to reschedule.",
    "Sale! {p}% off everything this weekend only, in all our shops and online. Show this message at the "
    "till. Terms apply, see example.com/sale. To opt out reply STOP. We look forward to seeing you!",
    "مشتری گرامی، سفارش شماره {n:06d} شما ارسال شد. از خرید شما سپاسگزاریم.",
    "Dear customer, your invoice of {p}.20 € is due on the 1st. Pay at example.com/{n:x} [ref {n:06d}]",
    "ok",
)


def message(rng: random.Random, queue: str) -> dict[str, object]:
    """One message as the API takes it."""
    template = rng.choice(_CODES if queue == "express" else _NOTICES)
    return {
        "to": f"+4915{rng.randrange(10**9):09d}",
        "text": template.format(n=rng.randrange(10**6), p=rng.randrange(5, 80)),
        "queue": queue,
    }


def batches(rng: random.Random, size: int, count: int, express_share: float) -> list[bytes]:
    """`count` request bodies of `size` messages each, encoded beforehand, so that this is not measured."""
    bodies = []
    for _ in range(count):
        queues = ["express" if rng.random() < express_share else "normal" for _ in range(size)]
        bodies.append(msgspec.json.encode({"messages": [message(rng, q) for q in queues]}))
    return bodies


def singles(rng: random.Random, count: int, express_share: float) -> list[bytes]:
    """`count` request bodies of one message each."""
    queues = ["express" if rng.random() < express_share else "normal" for _ in range(count)]
    return [msgspec.json.encode(message(rng, queue)) for queue in queues]


def organisations(rng: random.Random, count: int, exponent: float = 1.0) -> Iterator[int]:
    """Numbers from 0 to `count` - 1 without end, drawn by Zipf's law with this exponent."""
    weights = list(itertools.accumulate(1 / (i + 1) ** exponent for i in range(count)))
    while True:
        yield from rng.choices(range(count), cum_weights=weights, k=1000)
