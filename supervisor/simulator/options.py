"""The command line of the simulator: its flags, and the options that they give."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

import msgspec

from engine.config.addresses import split_listen
from engine.errors import ConfigError, Refusal
from engine.written_numbers import real, whole
from supervisor.simulator.behaviour import Behaviour, IdForm, decode, quantiles_from_csv

# The flag that sets a field of the behaviour: errors name the flag, which the operator knows.
_FLAGS = {
    "latency.constant_ms": "--latency-ms",
    "latency.lognormal.median_ms": "--latency-lognormal",
    "latency.lognormal.sigma": "--latency-lognormal",
    "latency.quantiles": "--latency-file",
    "error_rates.temporary": "--temporary",
    "error_rates.permanent": "--permanent",
    "error_rates.timeout": "--timeout-rate",
    "error_rates.reset": "--reset-rate",
    "error_rates": "--temporary, --permanent, --timeout-rate and --reset-rate",
    "throughput": "--throughput",
    "seed": "--seed",
    "receipts.delay.constant_ms": "--receipt-delay-ms",
    "receipts.delay.lognormal.median_ms": "--receipt-delay-lognormal",
    "receipts.delay.lognormal.sigma": "--receipt-delay-lognormal",
    "receipts.delay.quantiles": "--receipt-delay-file",
    "receipts.undelivered": "--receipt-undelivered",
    "receipts.duplicate": "--receipt-duplicate",
    "receipts.before_response": "--receipt-before-response",
    "receipts.pending": "--receipt-pending",
    "receipts.url": "--receipt-url",
    "smpp.system_id": "--smpp-system-id",
    "smpp.password": "--smpp-password",
    "smpp.window": "--smpp-window",
    "smpp.malformed": "--smpp-malformed",
    "smpp.disconnect_every": "--smpp-disconnect-every",
    "smpp.sessions_max": "--smpp-sessions-max",
}
# How the library that reads command lines says that a value is no number, and how `Behaviour` says what null
# means.
_WRONG_NUMBER = re.compile(r"argument (--[\w-]+): invalid (whole|real) value: ")
_NUMBERS = {"whole": "a whole number", "real": "a number"}
_OR_NULL = re.compile(r", or null for ([\w ]+)")
_RECEIPT_SHARES = ("undelivered", "duplicate", "before_response", "pending")
_SMPP_NUMBERS = ("window", "disconnect_every", "sessions_max")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options of the command line, checked."""

    host: str
    port: int
    # Address that takes SMPP; None: SMPP is not taken.
    smpp: tuple[str, int] | None = None
    behaviour: Behaviour
    json: bool = False
    die_with_parent: bool = False


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if wrong := _WRONG_NUMBER.match(message):
            raise ConfigError(f"{wrong[1]} must be {_NUMBERS[wrong[2]]}.")
        raise ConfigError(f"{message[:1].upper()}{message[1:]}.")


def options(arguments: Sequence[str]) -> Options:
    """Read the command line. Raises ConfigError naming the flag and what is allowed."""
    given = _parser().parse_args(arguments)
    host, port = _address("--listen", given.listen)
    settings: dict[str, Any] = {
        "error_rates": {
            "temporary": given.temporary,
            "permanent": given.permanent,
            "timeout": given.timeout_rate,
            "reset": given.reset_rate,
        },
        "throughput": given.throughput,
        "throughput_unit": given.throughput_unit,
        "outage": {"no": False, "yes": True}.get(given.outage, given.outage),
        "seed": given.seed,
        "smpp": _smpp(given),
    }
    try:
        settings["latency"] = _latency(given, "latency") or {"constant_ms": 0.0}
        settings["receipts"] = _receipts(given)
        behaviour = decode(settings)
    except Refusal as e:
        flag = _FLAGS.get(e.field or "")
        sentence = e.detail.replace(str(e.field), flag, 1) if flag else e.detail
        # A flag is left out where a field of the behaviour is null.
        raise ConfigError(_OR_NULL.sub(r"; without it: \1", sentence)) from e
    return Options(
        host=host,
        port=port,
        smpp=None if given.smpp_listen is None else _address("--smpp-listen", given.smpp_listen),
        behaviour=behaviour,
        json=given.json,
        die_with_parent=given.die_with_parent,
    )


def _address(flag: str, text: str) -> tuple[str, int]:
    address = split_listen(text)
    if not address:
        raise ConfigError(f"{flag} must be HOST:PORT, not {text!r}.")
    return address


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="smsengine simulator",
        description="A simulated SMS provider to send to, over HTTP and SMPP 3.4.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--listen", default="127.0.0.1:8090", metavar="HOST:PORT",
        help="for HTTP; port 0 takes a free one (%(default)s)")  # fmt: skip
    add("--smpp-listen", metavar="HOST:PORT", help="take SMPP too, here; port 0 takes a free one")
    _add_latency(parser, "latency", "every answer takes this long (0)")
    rate = "share of sends, 0 to 1, that"
    add("--temporary", type=real, default=0.0, metavar="P", help=f"{rate} fail for now (503, ESME_RSYSERR)")
    add(
        "--permanent",
        type=real,
        default=0.0,
        metavar="P",
        help=f"{rate} are rejected (422, ESME_RINVDSTADR)",
    )
    add("--timeout-rate", type=real, default=0.0, metavar="P", help=f"{rate} are never answered")
    add("--reset-rate", type=real, default=0.0, metavar="P", help=f"{rate} have their connection reset")
    add("--throughput", type=real, metavar="N",
        help="sends a second, above it 429, ESME_RTHROTTLED (no bound)")  # fmt: skip
    add("--throughput-unit", choices=["sends", "segments"], default="sends",
        help="what is bounded for HTTP; a submit_sm is one either way (%(default)s)")  # fmt: skip
    add("--outage", choices=["no", "yes", "refuse", "hang"], nargs="?", const="yes", default="no",
        help="take nothing: answer 503 or ESME_RSYSERR, close the connection, or never answer")  # fmt: skip
    add("--seed", type=whole, metavar="N", help="make the same decisions in the same order")
    _add_receipts(parser)
    _add_smpp(parser)
    add("--json", action="store_true", help='print one line {"url": ..., "smpp_port": ...} when ready')
    add(
        "--die-with-parent",
        action="store_true",
        help="end when the process that started this one ends, and leave SIGTERM to it",
    )
    return parser


def _add_latency(parser: argparse._ActionsContainer, name: str, what: str) -> None:
    either = parser.add_mutually_exclusive_group()
    either.add_argument(f"--{name}-ms", type=real, metavar="MS", help=what)
    either.add_argument(f"--{name}-lognormal", metavar="MEDIAN:SIGMA", help="median in milliseconds")
    either.add_argument(f"--{name}-file", type=Path, metavar="FILE", help="CSV of quantile,milliseconds")


def _add_receipts(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("receipts", "Sent when --receipts or any flag of this group is given.")
    add = group.add_argument
    add("--receipts", action="store_true", help="send receipts of what was taken")
    add(
        "--receipt-url",
        metavar="URL",
        help="post those of HTTP sends there; those of SMPP go over its sessions",
    )
    _add_latency(group, "receipt-delay", "from the answer to the receipt (0)")
    rate = "share, 0 to 1,"
    add("--receipt-undelivered", type=real, metavar="P", help=f"{rate} that the recipient does not get")
    add("--receipt-duplicate", type=real, metavar="P", help=f"{rate} that comes twice")
    add("--receipt-before-response", type=real, metavar="P",
        help=f"{rate} that goes out before the answer to the send")  # fmt: skip
    add("--receipt-pending", type=real, metavar="P", help=f"{rate} that gets a pending receipt first")
    add("--receipt-id-form", choices=get_args(IdForm),
        help="how the id in the receipt differs from that in the answer (same)")  # fmt: skip


def _add_smpp(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("SMPP").add_argument
    add("--smpp-system-id", metavar="NAME", help="who may bind (anybody)")
    add("--smpp-password", metavar="WORD", help="with which password (any)")
    add(
        "--smpp-window",
        type=whole,
        metavar="N",
        help="submits unanswered per session, above it ESME_RMSGQFUL",
    )
    add("--smpp-malformed", type=real, default=0.0, metavar="P",
        help="share of submits, 0 to 1, whose answer comes behind a malformed PDU")  # fmt: skip
    add("--smpp-disconnect-every", type=whole, metavar="N", help="cut a session after N PDUs from it")
    add("--smpp-sessions-max", type=whole, metavar="N", help="of one system_id, above it ESME_RBINDFAIL")
    add("--smpp-receipt-form", choices=["text", "tlv", "both"], default="both",
        help="text of the deliver_sm, optional parameters, or both (%(default)s)")  # fmt: skip


def _receipts(given: argparse.Namespace) -> dict[str, Any] | None:
    wanted = {
        "url": given.receipt_url,
        "id_form": given.receipt_id_form,
        "delay": _latency(given, "receipt-delay"),
        **{name: getattr(given, f"receipt_{name}") for name in _RECEIPT_SHARES},
    }
    settings = {name: value for name, value in wanted.items() if value is not None}
    return settings if settings or given.receipts else None


def _smpp(given: argparse.Namespace) -> dict[str, Any]:
    return {
        "system_id": given.smpp_system_id,
        "password": given.smpp_password,
        "malformed": given.smpp_malformed,
        "receipt_form": given.smpp_receipt_form,
        **{name: getattr(given, f"smpp_{name}") for name in _SMPP_NUMBERS},
    }


def _latency(given: argparse.Namespace, name: str) -> dict[str, Any] | None:
    """The latency that one of the three flags `--NAME-...` gives; None when none is given."""
    constant_ms, lognormal, file = (
        getattr(given, f"{name}_{kind}".replace("-", "_")) for kind in ("ms", "lognormal", "file")
    )
    if lognormal is not None:
        median, _, sigma = lognormal.partition(":")
        try:
            shape = {"median_ms": real(median), "sigma": real(sigma)}
        except ValueError as e:
            raise ConfigError(f"--{name}-lognormal must be MEDIAN:SIGMA, e.g. 120:0.5.") from e
        return {"lognormal": shape}
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            reason = e.strerror if isinstance(e, OSError) else "not UTF-8"
            raise ConfigError(f"--{name}-file {file} cannot be read: {reason}.") from e
        try:
            return {"quantiles": quantiles_from_csv(text)}
        except Refusal as e:
            raise ConfigError(e.detail.replace("latency.quantiles", f"--{name}-file", 1)) from e
    return None if constant_ms is None else {"constant_ms": constant_ms}
