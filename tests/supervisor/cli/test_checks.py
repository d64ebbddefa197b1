"""`smsengine check` of what needs no engine and no store."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.cli.checks import Check, check_all

SETTINGS = '[[providers]]\nname = "own"\ntype = "custom"\nfactory = "{factory}"\n'


def checked(folder: Path, factory: str) -> Check:
    """What is found of a provider that a module outside the engine makes."""
    config = folder / "engine.toml"
    config.write_text(SETTINGS.format(factory=factory))
    (found,) = [one for one in check_all(config, folder / "data", "") if one.part == "provider own"]
    return found


def test_a_module_that_cannot_be_imported_is_not_ok(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_for_check.py").write_text("def build(**settings): return None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert checked(tmp_path, "module_for_check:build").ok
    missing = checked(tmp_path, "no_such_module:build")
    assert not missing.ok
    assert missing.detail.startswith(
        "providers.own.factory: the module no_such_module cannot be imported: ModuleNotFoundError"
    )
    assert not checked(tmp_path, "module_for_check:no_such_function").ok
