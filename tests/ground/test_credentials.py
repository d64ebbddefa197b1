"""Secrets in files: the passwords of the stores, and credentials of systemd."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import Config, decode
from engine.errors import ConfigError


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("p@ss/word:1\nnot this\n")
    return path


@pytest.mark.parametrize(
    ("store", "url", "whole"),
    [
        ("postgres", "postgresql://sms@h1:5432,h2/sms", "postgresql://sms:{}@h1:5432,h2/sms"),
        ("redis", "redis://10.0.0.5:6379/0", "redis://:{}@10.0.0.5:6379/0"),
        ("redis", "redis+sentinel://sms@h1,h2/master/0", "redis+sentinel://sms:{}@h1,h2/master/0"),
        ("clickhouse", "https://sms@ch:8443/sms", "https://sms:{}@ch:8443/sms"),
    ],
)
def test_the_password_of_a_store_may_stand_in_a_file(store: str, url: str, whole: str, secret: Path) -> None:
    config = decode(f"[{store}]\nurl = '{url}'\npassword_file = '{secret}'\n", "x")
    assert getattr(config, store).url == whole.format("p%40ss%2Fword%3A1")
    assert getattr(config, store).password_file == ""


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", "postgres.password_file needs a postgres.url with a host."),
        ("postgresql://h/sms", "postgres.password_file needs a postgres.url with a user."),
        (
            "postgresql://sms:x@h/sms",
            "postgres.password_file must be left out, or postgres.url be without a password.",
        ),
    ],
)
def test_a_password_that_has_no_place_is_refused(url: str, sentence: str, secret: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        decode(f"[postgres]\nurl = '{url}'\npassword_file = '{secret}'\n", "x")
    assert str(refused.value) == f"x: {sentence}"


def test_a_password_that_cannot_be_read_is_named_by_its_setting(tmp_path: Path) -> None:
    text = f"[redis]\nurl = 'redis://h'\npassword_file = '{tmp_path / 'none'}'\n"
    with pytest.raises(ConfigError, match=r"redis\.password_file: .* cannot be read: No such file"):
        decode(text, "x")


def with_files_named(name: str) -> Config:
    return decode(
        f"[http]\nadmin_key_file = '{name}'\n[redis]\nurl = 'redis://h'\npassword_file = '{name}'\n"
        f"[[providers]]\nname = 'a'\ntype = 'smpp'\nhost = 'h'\nsystem_id = 's'\npassword_file = '{name}'\n",
        "x",
    )


@pytest.mark.parametrize("prefix", ["", "smsengine_"], ids=["by itself", "from a folder"])
def test_a_file_named_without_a_folder_is_a_credential(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{prefix}word").write_text("secret\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    config = with_files_named("word")
    assert config.redis.url == "redis://:secret@h"
    assert config.http.admin_key_file == str(tmp_path / f"{prefix}word")
    assert config.providers[0].password_file == str(tmp_path / f"{prefix}word")  # type: ignore[union-attr]


def test_without_credentials_it_is_a_file_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "word").write_text("secret\n")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.chdir(tmp_path)
    config = with_files_named("word")
    assert config.redis.url == "redis://:secret@h"
    assert config.http.admin_key_file == "word"
