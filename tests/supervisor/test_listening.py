"""The sockets that the engine listens on."""

from __future__ import annotations

import contextlib
import grp
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import config
from engine.config import Config, Role
from engine.errors import ConfigError
from supervisor.listening import listeners, reach


@contextlib.contextmanager
def listening(text: str, **inherited: socket.socket) -> Iterator[dict[Role, socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield listeners(config.decode('[http]\nlisten = "127.0.0.1:0"\n' + text, "test"), inherited, stack)


def test_the_admin_calls_are_on_loopback_at_the_port_after_that_of_the_api() -> None:
    assert Config().admin_listen == "127.0.0.1:8081"
    assert config.decode('[http]\nlisten = "0.0.0.0:9000"\n', "x").admin_listen == "127.0.0.1:9001"
    assert config.decode('[http]\nlisten = "0.0.0.0:65535"\n', "x").admin_listen == "127.0.0.1:1"
    with listening("") as sockets:
        urls = {role: reach(listener) for role, listener in sockets.items()}
        assert urls.keys() == {"ingest", "admin"}
        assert urls["admin"].startswith("http://127.0.0.1:")
        assert urls["admin"] != urls["ingest"]


def test_a_port_that_is_taken_is_one_sentence_that_names_the_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError) as e, listening(f'[admin]\nlisten = "{address}"\n'):
            pass
    assert str(e.value) == (
        f"The admin API cannot listen on {address}: address already in use; name another address in "
        "`[admin] listen` or with --admin-listen."
    )


def test_a_unix_socket_is_for_our_user_alone_or_for_a_group_and_goes_with_the_engine(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with listening(f'[admin]\nlisten = "unix:{path}"\n') as sockets:
        assert reach(sockets["admin"]) == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()
    group = grp.getgrgid(os.getegid())
    with listening(f'[admin]\nlisten = "unix:{path}"\nsocket_group = "{group.gr_name}"\n'):
        assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_gid) == (0o660, group.gr_gid)
    nobody = f'[admin]\nlisten = "unix:{path}"\nsocket_group = "nobody here"\n'
    with pytest.raises(ConfigError, match="a group of this machine, not 'nobody here'"), listening(nobody):
        pass
    assert not path.exists()


def test_a_unix_socket_of_a_killed_engine_is_replaced_and_one_in_use_or_a_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    text = f'[admin]\nlisten = "unix:{path}"\n'
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with listening(text), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        with pytest.raises(ConfigError, match="address already in use"), listening(text):
            pass
        assert path.exists()
    path.write_text("mine")
    with pytest.raises(ConfigError, match="address already in use"), listening(text):
        pass
    assert path.read_text() == "mine"


@pytest.mark.parametrize("wrong", ["8081", "unix:admin.sock", "unix:/" + "x" * 107, "host:70000"])
def test_an_address_that_is_none_is_named(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"admin.listen must be HOST:PORT, or unix: and an absolute path"):
        config.decode(f'[admin]\nlisten = "{wrong}"\n', "x")
    with pytest.raises(ConfigError, match=r"admin.socket_group must be left out without a Unix socket"):
        config.decode('[admin]\nsocket_group = "adm"\n', "x")


def test_what_systemd_hands_over_is_used_as_it_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as admin, listening("", admin=admin) as sockets:
        assert sockets["admin"] is admin
