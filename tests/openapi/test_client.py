"""The client in examples/ makes every call from the document, and repeats what was not answered."""

from __future__ import annotations

import importlib.util
import socket
import threading
from types import ModuleType

import pytest

from tests.openapi.documented import Documented
from tests.system.conftest import ROOT


@pytest.fixture(scope="module")
def client() -> ModuleType:
    spec = importlib.util.spec_from_file_location("client", ROOT / "examples" / "client.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_application_sends_and_an_operator_looks_with_it(
    client: ModuleType, documented: Documented
) -> None:
    engine = documented.engine
    admin = client.Client(engine.admin_url, engine.admin_key)
    made = admin.create_organisation(name="By a client")
    admin.top_up(organisation_id=made["id"], units=5, reference="first")
    api = client.Client(engine.url, made["api_key"])
    sent = api.send_message(to="+4915112345678", text="hello", from_="ACME")
    assert api.get_message(id=sent["id"])["from"] == "ACME"
    assert len(api.list_transactions(limit=1)["transactions"]) == 1
    with pytest.raises(client.Problem) as refused:
        api.send_message(to="12", text="hello")
    assert (refused.value.status, refused.value.code, refused.value.field) == (422, "invalid_number", "to")
    assert {"send_message", "get_balance"} <= set(dir(api))
    assert "POST /v1/messages" in api.send_message.__doc__
    with pytest.raises(AttributeError, match="no call 'send_letter'"):
        api.send_letter()


def test_a_call_without_an_answer_is_repeated_and_counts_once(
    client: ModuleType, documented: Documented, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first connection is cut before its answer, as by a proxy that ends; the message is sent once."""
    monkeypatch.setattr(client.time, "sleep", lambda _: None)
    of = documented.organisation()
    api = client.Client(documented.engine.url, of.api_key)
    host, port = documented.engine.url.removeprefix("http://").split(":")
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def serve() -> None:
            for cut in (True, False):
                caller = proxy.accept()[0]
                with caller, socket.create_connection((host, int(port))) as ours:
                    request = b""
                    while b"\r\n\r\n" not in request or b'"text"' not in request:
                        request += caller.recv(65536)
                    ours.sendall(request)
                    answer = ours.recv(65536)
                    if not cut:
                        caller.sendall(answer)

        serving = threading.Thread(target=serve)
        serving.start()
        monkeypatch.setattr(api, "_url", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        sent = api.send_message(to="+4915112345678", text="once")
        serving.join()
    assert sent["status"] == "accepted"
    assert documented.public("GET", f"/v1/messages/{sent['id']}", None, of.api_key)["id"] == sent["id"]
