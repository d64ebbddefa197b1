"""Every example of the document is tried on a running engine, and every call is answered as it says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.openapi.documented import MAKERS, Documented, Operation, Organisation, Reply, ask
from tests.system.client import eventually

# Calls that find nothing to work on in an engine without failures, and what each is answered then.
WITHOUT = {"book_unbooked": 404}


def names_for(documented: Documented, operation: Operation, of: Organisation) -> Mapping[str, object] | None:
    """What to write in its path; None when something of it cannot be made."""
    kinds = operation.kinds()
    if not kinds.keys() <= {name for name, kind in kinds.items() if kind in MAKERS}:
        return None
    return {name: MAKERS[kind](documented, of) for name, kind in kinds.items()}


def expected(operation: Operation) -> set[int]:
    """The statuses that the document says of an example."""
    without = WITHOUT.get(operation.of["operationId"])
    return {without} if without else {int(status) for status in operation.of["responses"] if status[0] == "2"}


# Objects whose fields are names of things, not of the record.
_BY_NAME = ("prices", "not_canceled")


def unlike(example: Any, real: Any, at: str = "") -> Iterator[str]:
    """Where an example of an answer has other fields than a real one."""
    if isinstance(example, dict) and isinstance(real, dict):
        if example.keys() != real.keys() and at.rpartition(".")[2] not in _BY_NAME:
            yield f"{at or 'the answer'}: {sorted(example)} in place of {sorted(real)}"
        for name in example.keys() & real.keys():
            yield from unlike(example[name], real[name], f"{at}.{name}")
    elif isinstance(example, list) and isinstance(real, list) and real:
        for one in example:
            yield from unlike(one, real[0], f"{at}[]")


def shown(operation: Operation, reply: Reply) -> Iterator[str]:
    """What is not as the examples of the answers are."""
    answer = operation.of["responses"].get(str(reply.status), {})
    example = answer.get("content", {}).get("application/json", {}).get("example")
    if example is not None and reply.body is not None:
        yield from unlike(example, reply.body)


def put_right(documented: Documented, of: Organisation) -> None:
    """What the examples have paused, drained or changed, as it was; wait until messages are taken again."""
    for queue in ("express", "normal"):
        documented.admin("POST", f"/queues/{queue}/resume")
        documented.admin("POST", f"/queues/{queue}/scale", {"processes": None})
    for node in documented.admin("GET", "/nodes")["nodes"]:
        documented.admin("POST", f"/nodes/{node['name']}/resume")
    for provider in documented.admin("GET", "/providers")["providers"]:
        documented.admin("POST", f"/providers/{provider['name']}/resume")
    documented.admin("PUT", "/routes", {"routes": []})
    message = {"to": "+4915112345678", "text": "again"}
    eventually(lambda: ask("POST", f"{documented.engine.url}/v1/messages", message, of.api_key).status == 202)


def faults(documented: Documented, operation: Operation, reply: Reply) -> Iterator[str]:
    """What of a reply is not as the document says of an example."""
    if reply.status not in expected(operation):
        yield f"answered {reply.status}: {reply.octets[:300]!r}"
    if fault := documented.fault(operation, reply):
        yield fault
    yield from shown(operation, reply)


def test_every_example_is_accepted_and_every_call_answered_as_described(documented: Documented) -> None:
    of, wrong, tried = documented.organisation(), [], set()
    for operation in documented.operations():
        names = names_for(documented, operation, of)
        if names is None:
            continue
        name = operation.of["operationId"]
        examples: dict[str, Any] = operation.bodies() or {"": None}
        for title, body in examples.items():
            reply = documented.ask(operation, names, body, "" if operation.is_admin else of.api_key)
            wrong += [f"{name} {title}: {fault}" for fault in faults(documented, operation, reply)]
        tried.add(name)
    put_right(documented, of)
    # Also after what was adjusted.
    eventually(lambda: documented.admin("GET", "/audit")["clean"])
    assert not wrong, "\n".join(wrong)
    with_examples = {o.of["operationId"] for o in documented.operations() if o.bodies()}
    assert with_examples <= tried
    assert len(tried) > 40
