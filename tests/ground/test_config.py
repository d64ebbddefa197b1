"""A configuration says what is different; what is wrong with it is one sentence with the setting's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from engine import config
from engine.config import Config
from engine.errors import ConfigError
from engine.providers.secret import secret
from engine.providers.settings import CustomSettings, HttpSettings, SimulatedSettings, SmppSettings
from supervisor.cli import toml_file
from supervisor.datadir import read_secret

SMPP = '[[providers]]\nname = "a"\ntype = "smpp"\nhost = "h"\nsystem_id = "s"\n'
HTTP = '[[providers]]\nname = "a"\ntype = "http"\n'
SIMULATED = '[[providers]]\nname = "a"\ntype = "simulated"\n'


def refused(text: str) -> str:
    """What is said of this configuration, without the name of its file."""
    with pytest.raises(ConfigError) as caught:
        config.decode(text, "file.toml")
    sentence = str(caught.value)
    assert sentence.startswith("file.toml")
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence.removeprefix("file.toml: ")


def test_an_empty_file_leaves_every_default() -> None:
    read = config.decode("", "test")
    assert read == Config()
    assert (read.shards, read.take_over_s, read.node, read.data_dir) == (0, 60.0, "", "")
    assert (read.http.listen, read.http.timeout_s) == ("127.0.0.1:8080", 10.0)
    assert (read.http.body_bytes_max, read.http.admin_key_file) == (4 * 1024 * 1024, "")
    assert (read.redis.url, read.postgres.url, read.clickhouse.url) == ("", "", "")
    assert {getattr(read.roles, role) for role in config.ROLES} == {1}
    assert (read.credit.quota_s, read.credit.quota_min, read.credit.validity_s) == (2.0, 100, 3600.0)
    assert (read.credit.overdue_s, read.credit.prefetch_max) == (15.0, 100_000)
    assert (read.providers, read.routes, read.prices) == ([], [], {"": 1})
    assert read.node_name


def test_one_setting_of_express_leaves_its_other_defaults() -> None:
    express = config.decode("[queues.express]\nconcurrency = 7\n", "test").queues.express
    assert (express.concurrency, express.validity_s, express.backoff_s, express.hedge) == (7, 300, 0.5, True)
    normal = config.decode("[queues.normal]\nconcurrency = 7\n", "test").queues.normal
    assert (normal.validity_s, normal.hedge) == (86400, False)


def test_a_provider_without_a_type_is_a_simulated_one() -> None:
    read = config.decode('[[providers]]\nname = "a"\nurl = "http://127.0.0.1:9"\n', "test")
    assert read.providers == [SimulatedSettings(name="a", url="http://127.0.0.1:9")]


LIMITS = [
    ("shards = {}", "shards", 0, 257, "a whole number from 1 to 256"),
    ("take_over_s = {}", "take_over_s", 0.9, 3601, "a number from 1 to 3600"),
    ("[http]\ntimeout_s = {}", "http.timeout_s", 0.05, 601, "a number from 0.1 to 600"),
    ("[http]\nbody_bytes_max = {}", "http.body_bytes_max", 1023, 2**26 + 1,
     "a whole number from 1024 to 67108864"),
    *((f"[roles]\n{role} = {{}}", f"roles.{role}", -1, 257, "a whole number from 0 to 256")
      for role in config.Roles.__struct_fields__),
    *((f"[queues.{queue}]\n{name} = {{}}", f"queues.{queue}.{name}", low, high, allowed)
      for queue in ("express", "normal")
      for name, low, high, allowed in (
          ("concurrency", 0, 10_001, "a whole number from 1 to 10000"),
          ("validity_s", 0, 604_801, "a whole number from 1 to 604800"),
          ("backoff_s", 0, 3601, "a number greater than 0 and at most 3600"),
          ("backoff_max_s", -1, 86_401, "a number greater than 0 and at most 86400"),
      )),
    ("[credit]\nquota_s = {}", "credit.quota_s", 0.05, 3601, "a number from 0.1 to 3600"),
    ("[credit]\nquota_min = {}", "credit.quota_min", 0, 1_000_001, "a whole number from 1 to 1000000"),
    ("[credit]\nvalidity_s = {}", "credit.validity_s", 0.5, 604_801, "a number from 1 to 604800"),
    ("[credit]\noverdue_s = {}", "credit.overdue_s", 4.9, 3601, "a number from 5 to 3600"),
    ("[credit]\nprefetch_max = {}", "credit.prefetch_max", -1, 1_000_001, "a whole number from 0 to 1000000"),
    *((SIMULATED + f"{name} = {{}}", f"providers.a.{name}", low, high, allowed)
      for name, low, high, allowed in (
          ("timeout_s", 0, 1801, "a number greater than 0 and at most 1800"),
          ("throughput", 0.009, 1_000_001, "a number from 0.01 to 1000000"),
          ("express_share", -0.1, 1.1, "a number from 0 to 1"),
          ("breaker_failures", 0, 100_001, "a whole number from 1 to 100000"),
          ("breaker_pause_s", 0.04, 61, "a number from 0.05 to 60"),
          ("connections_max", 0, 10_001, "a whole number from 1 to 10000"),
      )),
    (HTTP + "connections_max = {}", "providers.a.connections_max", 0, 10_001,
     "a whole number from 1 to 10000"),
    *((SMPP + f"{name} = {{}}", f"providers.a.{name}", low, high, allowed)
      for name, low, high, allowed in (
          ("port", 0, 65_536, "a whole number from 1 to 65535"),
          ("sessions", 0, 101, "a whole number from 1 to 100"),
          ("window", 0, 10_001, "a whole number from 1 to 10000"),
          ("enquire_link_s", 0.05, 3601, "a number from 0.1 to 3600"),
          ("reconnect_s", 0, 3601, "a number greater than 0 and at most 3600"),
          ("reconnect_max_s", 0, 86_401, "a number greater than 0 and at most 86400"),
          ("source_ton", -1, 256, "a whole number from 0 to 255"),
          ("source_npi", -1, 256, "a whole number from 0 to 255"),
          ("destination_ton", -1, 256, "a whole number from 0 to 255"),
          ("destination_npi", -1, 256, "a whole number from 0 to 255"),
          ("data_coding.default", -1, 256, "a whole number from 0 to 255"),
          ("data_coding.latin1", -1, 256, "a whole number from 0 to 255"),
          ("data_coding.ucs2", -1, 256, "a whole number from 0 to 255"),
      )),
]  # fmt: skip


@pytest.mark.parametrize(("text", "setting", "low", "high", "allowed"), LIMITS, ids=[n[1] for n in LIMITS])
def test_a_number_beyond_its_limits_is_refused_with_its_name_and_what_is_allowed(
    text: str, setting: str, low: float, high: float, allowed: str
) -> None:
    for number in (low, high, *(() if "whole" in allowed else ("nan", "inf", "-inf"))):
        assert refused(text.format(number)) == f"{setting} must be {allowed}."


def numbers(declared: Any) -> list[Any]:
    """Every number that can be set, out of the declaration of the settings."""
    match declared:
        case inspect.StructType():
            return [n for f in declared.fields for n in numbers(f.type)]
        case inspect.UnionType():
            return [n for t in declared.types for n in numbers(t)]
        case inspect.ListType():
            return numbers(declared.item_type)
        case inspect.IntType() | inspect.FloatType():
            return [declared]
    return []


def test_no_number_is_without_limits() -> None:
    sections = (Config, SimulatedSettings, SmppSettings, HttpSettings, CustomSettings)
    found = [n for section in sections for n in numbers(inspect.type_info(section))]
    assert len(found) > 40
    # Prices and weights are checked by the rules that use them.
    assert [n for n in found if n.le is None or (n.ge is None and n.gt is None)] == []


WRONG = [
    (
        "[http]\nport = 1",
        "http.port is no setting; those here are: admin_key_file, body_bytes_max, connections_max, "
        "drain_notice_s, listen, timeout_s, trusted_proxies.",
    ),
    ("[queues.slow]\n", "queues.slow is no setting; those here are: express, normal."),
    ('[[providers]]\nname = "a"\ntype = "http"\nhost = "h"', "providers.a.host is no setting; those here "),
    ('[[providers]]\ntype = "http"\n', "providers.0.name must be given."),
    ('[[providers]]\nname = "a"\ntype = "smpp"\n', "providers.a.host must be given."),
    (
        '[[providers]]\nname = "a"\ntype = "fax"\n',
        "providers.a.type must be one of: simulated, smpp, http, custom.",
    ),
    ("http = 1", "http must be a section."),
    ("providers = 1", "providers must be sections [[...]]."),
    ("providers = [1]", "providers.0 must be "),
    ("[providers]\na = 1", "providers must be sections [[...]]."),
    ("shards = '4'", "shards must be a whole number from 1 to 256."),
    ("shards = 4.5", "shards must be a whole number from 1 to 256."),
    ("shards = true", "shards must be a whole number from 1 to 256."),
    ("node = 4", "node must be text."),
    ("[http]\ntimeout_s = '4'", "http.timeout_s must be a number from 0.1 to 600."),
    ("[queues.normal]\nhedge = 1", "queues.normal.hedge must be true or false."),
    ("[queues.normal]\nunknown_outcome = 'never'", "queues.normal.unknown_outcome must be one of: at-"),
    ("[queues.express]\nunknown_outcomes_max = 0", "queues.express.unknown_outcomes_max must be a whole nu"),
    (
        "[queues.normal]\nunknown_outcome_charge = 'none'",
        "queues.normal.unknown_outcome_charge must be one of: captured, released.",
    ),
    (SIMULATED + "throughput = 'all'", "providers.a.throughput must be a number from 0.01 to"),
    *(
        (
            SMPP.replace('"h"', f"'{host}'"),
            "providers.a.host must be a host name or an address, without a scheme, a port or brackets.",
        )
        for host in (
            "",
            "smpp.example:2775",
            "smpp://smpp.example",
            "[::1]",
            "smpp.example ",
            "me@smpp.example",
        )
    ),
    (SMPP + "bind = 'both'", "providers.a.bind must be one of: separate, transceiver, transmitter."),
    (
        SMPP + "states = {arrived = ['X']}",
        "providers.a.states.arrived is no setting; those here are: deliver",
    ),
    (SMPP + "states = {delivered = 'X'}", "providers.a.states.delivered must be a list."),
    (
        SMPP + "states = {delivered = [1.5]}",
        "providers.a.states.delivered.0 must be text or a whole number fr",
    ),
    (
        SMPP + "data_coding = {gsm7 = 1}",
        "providers.a.data_coding.gsm7 is no setting; those here are: default",
    ),
    (SMPP + "default_alphabet = 'utf8'", "providers.a.default_alphabet must be one of: ascii, gsm7, latin1."),
    (
        SMPP + "validity_period = 'off'",
        "providers.a.validity_period must be one of: absolute, none, relative.",
    ),
    (SMPP + "receipts_by_text = 1", "providers.a.receipts_by_text must be true or false."),
    (SMPP + "receipt_id_from = 'tlv'", "providers.a.receipt_id_from must be one of: parameter, text."),
    (
        SMPP + "gsm7 = 'packed'\ndefault_alphabet = 'ascii'",
        'providers.a.gsm7 must be "unpacked" or "latin1" with default_alphabet "ascii": only GSM-7 is',
    ),
    (
        "[autoscale.express]\ntarget = '2s'",
        "autoscale.express.target must be a quantile and a time, such as 'p99 <= 2s'.",
    ),
    (
        "[autoscale.normal]\nprocesses_min = 5",
        "autoscale.normal.processes_min must be at most processes_max.",
    ),
    (
        "[autoscale.normal]\nconcurrency_min = 5000",
        "autoscale.normal.concurrency_min must be at most concurrency_max.",
    ),
    (
        "[roles]\nnormal = 0\n[autoscale.normal]",
        "autoscale.normal must be left out where roles.normal is 0.",
    ),
    ("[autoscale.normal]\ncalm_s = 1", "autoscale.normal.calm_s must be a number from 5 to 86400."),
    ("[autoscale]\nnormal = 5", "autoscale.normal must be a section."),
    ("[prices]\n'+98' = 'x'", "prices.* must be a whole number."),
    (
        "[activity]\ntexts_days = 40\nnumbers_days = 30",
        "activity.texts_days must be at most as many as activity.numbers_days.",
    ),
    ("[activity]\nnumbers = 'none'", "activity.numbers must be one of: hashed, plain."),
    (
        "[activity]\nnumbers = 'hashed'\n[clickhouse]\nurl = 'http://h'",
        "activity.numbers_key_file must be given with clickhouse.url or clickhouse.urls, the same key on all",
    ),
    ("[http]\nlisten = '8080'", "http.listen must be HOST:PORT."),
    ("[http]\ntrusted_proxies = ['10.0.0.1/8']", "http.trusted_proxies must be at most 100 networks"),
    ("[queues.normal]\nbackoff_s = 3\nbackoff_max_s = 2", "queues.normal.backoff_s must be at most back"),
    (SMPP + "reconnect_s = 3\nreconnect_max_s = 2", "providers.a.reconnect_s must be at most reconnect_max"),
    (
        "take_over_s = 10\n" + SIMULATED + "timeout_s = 6",
        "providers.a.timeout_s must be greater than 0 and at most half of take_over_s.",
    ),
    (SIMULATED + SIMULATED, "providers must be named differently from one another."),
    (SIMULATED.replace('"a"', '"a b"'), "providers.a b.name must be 1 to 64 letters, digits, '-' and '_'."),
    # What would do something to a terminal is shown as an escape.
    (SIMULATED.replace('"a"', r'"\u001b[2J"'), r"providers.\x1b[2J.name must be 1 to 64 letters"),
    (SIMULATED + r'"\u0000" = 1', r"providers.a.\x00 is no setting"),
]


@pytest.mark.parametrize(("text", "sentence"), WRONG)
def test_what_does_not_fit_is_one_sentence(text: str, sentence: str) -> None:
    assert refused(text).startswith(sentence)


@pytest.mark.parametrize(
    ("store", "good", "wrong", "allowed"),
    [
        ("redis", ("redis://h", "rediss://:p@h:6379/1", "unix:///run/redis"), ("h:6379", "http://h"),
         "redis:// or rediss:// or unix:// or redis+sentinel:// or rediss+sentinel://"),
        ("postgres", ("postgresql://h/d", "postgres://u:p@h:5432/d"), ("mysql://h", "h:5432", "postgresql:h"),
         "postgresql:// or postgres://"),
        ("clickhouse", ("http://h:8123/d", "https://h"), ("clickhouse://h", "h:8123"), "http:// or https://"),
    ],
)  # fmt: skip
def test_the_url_of_a_store_has_one_of_its_forms(
    store: str, good: tuple[str, ...], wrong: tuple[str, ...], allowed: str
) -> None:
    for url in ("", *good):
        assert getattr(config.decode(f"[{store}]\nurl = '{url}'", "test"), store).url == url
    for url in wrong:
        sentence = refused(f"[{store}]\nurl = '{url}'")
        assert sentence == f"{store}.url must be a URL that begins with {allowed}."


def test_what_is_not_toml_is_said_to_be_so() -> None:
    assert refused("[http").startswith("file.toml is not TOML: ")


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "with_mark.toml"
    path.write_bytes(b"\xef\xbb\xbf[http]\nlisten = '127.0.0.1:1'\n[prices]\n'' = 3\n")
    assert config.load(path).http.listen == "127.0.0.1:1"

    class Table(msgspec.Struct):
        prices: dict[str, int]

    assert toml_file.read(path, Table, "price file", "[prices]").prices == {"": 3}


def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path) -> None:
    latin, wide, wide_unmarked = (tmp_path / f"{name}.toml" for name in ("latin", "wide", "wide_unmarked"))
    latin.write_bytes(b"shards = 4\nnode = '\xe9'\n")
    wide.write_text("shards = 4\n", encoding="utf-16")
    wide_unmarked.write_text("shards = 4\n", encoding="utf-16-be")
    for path, reason in (
        (tmp_path / "none.toml", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (latin, "line 2 is not UTF-8; save it as UTF-8"),
        (wide, "it is UTF-16; save it as UTF-8"),
        (wide_unmarked, "it is UTF-16; save it as UTF-8"),
        (latin / "below", "Not a directory"),
    ):
        with pytest.raises(ConfigError) as caught:
            config.load(path)
        assert str(caught.value) == f"The configuration {path} cannot be read: {reason}."
        with pytest.raises(ConfigError) as caught:
            toml_file.read(path, msgspec.defstruct("Table", []), "prices", "a table [prices]")
        assert str(caught.value) == f"The prices {path} cannot be read: {reason}."


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_a_mark_of_windows_change_nothing(tmp_path: Path, mark: bytes, end: bytes) -> None:
    path = tmp_path / "windows.toml"
    path.write_bytes(mark + end.join([b"# Settings", b"", b"[http]", b"listen = '127.0.0.1:1'", b""]))
    assert config.load(path).http.listen == "127.0.0.1:1"


def test_a_secret_may_stand_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("grünes Geheimnis\nand a remark\n", encoding="utf-8")
    assert secret("", str(path), "providers.a.password") == "grünes Geheimnis"
    assert secret("given", "", "providers.a.password") == "given"
    with pytest.raises(ConfigError, match=r"^providers\.a\.password must be given once"):
        secret("given", str(path), "providers.a.password")
    path.write_text("\n")
    with pytest.raises(ConfigError, match=r"^providers\.a\.password_file: the first line of .* is empty\."):
        secret("", str(path), "providers.a.password")
    path.write_bytes(b"\xef\xbb\xbfwith a mark\r\n")
    assert secret("", str(path), "providers.a.password") == "with a mark"
    for content, reason in ((b"\xe9\n", "line 1 is not UTF-8"), ("secret".encode("utf-16"), "it is UTF-16")):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=f"cannot be read: {reason}; save it as UTF-8"):
            secret("", str(path), "providers.a.password")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        secret("", str(tmp_path), "providers.a.password")


def test_the_key_of_hashed_numbers_is_long_and_may_be_needed(tmp_path: Path) -> None:
    key = tmp_path / "key"
    text = f"[activity]\nnumbers = 'hashed'\nnumbers_key_file = '{key}'\n[clickhouse]\nurl = 'http://h'"
    for line, end in (("15 characters..", "has at least 16 characters."), ("", "is empty.")):
        key.write_text(line)
        assert refused(text).endswith(end)
    key.write_text("16 characters...\n")
    assert config.decode(text, "test").activity.numbers == "hashed"
    assert config.decode("[activity]\nnumbers = 'hashed'", "test").activity.numbers_key_file == ""


def test_the_admin_key_may_stand_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "admin_key"
    path.write_text("smsa_key\n")
    assert read_secret(path) == "smsa_key"
    assert read_secret(tmp_path / "none") == ""
    path.write_bytes(b"\xef\xbb\xbfsmsa_key\r\n")
    assert read_secret(path) == "smsa_key"
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="cannot be read: line 1 is not UTF-8; save it as UTF-8"):
        read_secret(path)


@pytest.mark.parametrize("host", ["smpp.example", "smpp-1_a.example.", "10.0.0.7", "::1", "fe80::1%eth0"])
def test_a_providers_host_is_a_name_or_an_address(tmp_path: Path, host: str) -> None:
    file = tmp_path / "smsengine.toml"
    file.write_text(SMPP.replace('"h"', f"'{host}'"))
    assert config.load(file).providers[0].host == host  # type: ignore[union-attr]
