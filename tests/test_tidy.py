"""The style of the code, as a test. A failure says what to do.

Floors, from the ground up; an import never points upwards:

    1  ground       engine.records, carriers, errors, histogram, _fastcredits
    2  rules        every other module right under engine/: pure, no clock, no randomness
       adapters     engine.stores, engine.providers, and the few modules in ADAPTERS
    3  services     SERVICES: async loops that know rules, ports and ground
    4  engine.api   5  engine.boot   6  supervisor   7  benchmarks   8  tests

Every import counts, also one made for types only or inside a function, because those are
what hides a circle.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TOPS = ("engine", "supervisor", "benchmarks", "tests")

MODULE_LINES_MAX = 400
# Cases stand side by side; more of them do not make a test harder to read.
TEST_MODULE_LINES_MAX = 600
FUNCTION_LINES_MAX = 50
TEST_FUNCTION_LINES_MAX = 70
CLASS_METHODS_MAX = 15
TEST_CLASS_METHODS_MAX = 25
# What is over a cap and may stay for now, with its size: "path" or "path::name". It may
# only shrink; nothing is added without a reason beside it.
RATCHET: dict[str, int] = {
    # Hears every event of the simulated world: one short method for each.
    "tests/simulation/checkers.py::Truth": 31,
    # One method for each function in Lua, and for each decision that a mutation spoils by itself.
    "tests/simulation/redis_functions.py::Functions": 27,
}

GROUND = {"engine.records", "engine.carriers", "engine.errors", "engine.histogram", "engine._fastcredits"}
SERVICES = {
    f"engine.{name}"
    for name in (
        "ingest",
        "quota",
        "price_list",
        "routing_table",
        "worker",
        "dispatch",
        "ledger",
        "archiver",
        "matcher",
        "matching",
        "notifier",
        "sweeper",
    )
}
# Right under engine/ and no rule: they touch the system, or describe what does.
ADAPTERS = {"engine.config", "engine.life", "engine.telemetry", "engine.keys", "engine.ports", "engine.boot",
            "engine.views", "engine.provider_settings", "engine.receipt_ports",
            "engine.dispatch_ports"}  # fmt: skip
CLIENTS = {"redis", "hiredis", "asyncpg", "clickhouse_connect", "aiohttp"}
IMPURE = CLIENTS | {
    *("asyncio", "contextvars", "datetime.datetime.now", "httptools", "multiprocessing", "os", "queue"),
    *("random", "secrets", "selectors", "signal", "socket", "subprocess", "threading", "time", "uvloop"),
}
# A type for an argument, not a source: whoever calls the rule brings its randomness.
PURE = {"random.Random"}

# As a whole word of a module's name, and what to write instead.
BANNED_NAMES = {
    **dict.fromkeys(
        ("util", "utils", "helper", "helpers", "common", "misc", "shared"), "what the code is about"
    ),
    **dict.fromkeys(("manager", "managers", "handler", "handlers"), "the noun of the domain it serves"),
    **dict.fromkeys(("info", "data", "stuff"), "what the content is: rows, settings, facts"),
    **dict.fromkeys(("job", "jobs", "task", "tasks"), "message, entry or attempt"),
    **dict.fromkeys(("user", "users"), "organisation"),
}
BANNED_CLASS_ENDS = ("Manager", "Handler", "Helper", "Helpers", "Util", "Utils", "Info", "Data")

# Places outside the project, put together here so that this file does not name them.
OUTSIDE = tuple("/".join(parts) for parts in (("..", "shared"), ("", "work", "shared"), ("", "work", "main")))
TEXT_SUFFIXES = {".cfg", ".css", ".html", ".js", ".json", ".lua", ".md", ".py", ".pyi", ".pyx", ".rules",
                 ".service", ".sh", ".sql", ".toml", ".txt", ".yaml", ".yml", ""}  # fmt: skip
NOT_OURS = {"build", "data", "__pycache__", "node_modules"}


class Module(NamedTuple):
    name: str
    path: str
    text: str
    # None for Cython, which is read by line instead.
    tree: ast.Module | None


@cache
def modules() -> dict[str, Module]:
    found = {}
    for top in TOPS:
        for file in sorted((ROOT / top).rglob("*.py*")):
            if file.suffix not in (".py", ".pyx") or "__pycache__" in file.parts:
                continue
            path = file.relative_to(ROOT)
            name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
            text = file.read_text(encoding="utf-8")
            tree = ast.parse(text, str(path)) if file.suffix == ".py" else None
            found[name] = Module(name, str(path), text, tree)
    return found


def imported_names(module: Module) -> set[str]:
    """Everything it names in an import, dotted: `from a.b import c` gives a.b.c."""
    names: set[str] = set()
    if module.tree is None:
        for source, target in re.findall(
            r"^\s*(?:from\s+(\S+)\s+)?c?import\s+\(?\s*(\w+[\w.]*)", module.text, re.M
        ):
            names.add(f"{source}.{target}" if source else target)
        return names
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.name.split(".")
            package = parts if module.path.endswith("__init__.py") else parts[:-1]
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            source = ".".join([*base, node.module] if node.module else base)
            names.update(f"{source}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func).rpartition(".")[2]
            if called in ("import_module", "__import__"):
                names.add(str(node.args[0].value))
    return names


@cache
def imports() -> dict[str, set[str]]:
    """Which of our modules each of our modules imports."""
    graph: dict[str, set[str]] = {}
    for module in modules().values():
        graph[module.name] = set()
        for name in imported_names(module):
            whole, source = name, name.rpartition(".")[0]
            target = whole if whole in modules() else source
            if target in modules():
                graph[module.name].add(target)
    return graph


def floor(name: str) -> int:
    if name in GROUND or name == "engine":
        return 1
    if name in SERVICES:
        return 3
    top = [
        ("engine.boot", 5),
        ("engine.boot_archiver", 5),
        ("engine.boot_process", 5),
        ("engine.boot_worker", 5),
        ("engine.views", 4),
        ("engine.api", 4),
        ("engine", 2),
        ("supervisor", 6),
        ("benchmarks", 7),
    ]
    return next((number for prefix, number in top if within(name, prefix)), 8)


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def is_rule(name: str) -> bool:
    return floor(name) <= 2 and name.count(".") == 1 and name not in ADAPTERS and not is_adapter(name)


def is_adapter(name: str) -> bool:
    return within(name, "engine.stores") or within(name, "engine.providers")


def oversize(key: str, size: int, size_max: int, what: str, advice: str) -> list[str]:
    allowed = RATCHET.get(key, size_max)
    return [f"{key} has {size} {what}, allowed are {allowed}: {advice}"] if size > allowed else []


def report(wrong: list[str]) -> None:
    assert not wrong, "\n" + "\n".join(sorted(wrong))


def functions(module: Module) -> Iterator[tuple[str, int]]:
    """(name, lines) of every function, its docstring included."""
    if module.tree is not None:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1
        return
    lines = module.text.splitlines()
    for number, line in enumerate(lines):
        begun = re.match(r"(\s*)(?:c?p?def)\s[^=]*?(\w+)\(", line)
        if begun:
            body = number + 1
            while body < len(lines) and re.match(rf"{begun[1]}(\s|\)|$)", lines[body]):
                body += 1
            yield begun[2], len("\n".join(lines[number:body]).rstrip().splitlines())


def classes(module: Module) -> Iterator[tuple[str, int]]:
    """(name, methods) of every class."""
    if module.tree is not None:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                yield node.name, sum(isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) for n in node.body)
        return
    for name, body in re.findall(r"^cdef class (\w+).*\n((?:(?:    .*)?\n)*)", module.text, re.M):
        yield name, len(re.findall(r"^    (?:c?p?def) .*\(.*:$", body, re.M))


def sizes() -> Iterator[tuple[str, int, int, str, str]]:
    """(key, size, cap, what, advice) of everything that has a cap."""
    for module in modules().values():
        lines = len(module.text.splitlines())
        cap = TEST_MODULE_LINES_MAX if module.path.startswith("tests/") else MODULE_LINES_MAX
        yield module.path, lines, cap, "lines", "split it along what it is about."
        for name, lines in functions(module):
            advice = "give its steps names of their own."
            cap = TEST_FUNCTION_LINES_MAX if module.path.startswith("tests/") else FUNCTION_LINES_MAX
            yield f"{module.path}::{name}", lines, cap, "lines", advice
        cap = TEST_CLASS_METHODS_MAX if module.path.startswith("tests/") else CLASS_METHODS_MAX
        for name, methods in classes(module):
            yield f"{module.path}::{name}", methods, cap, "methods", "it is two things: part them."


def test_there_is_something_to_look_at() -> None:
    assert {"engine.records", "engine._fastcredits", "tests.test_tidy"} <= modules().keys()
    assert "engine.errors" in imports()["engine.segments"]


def test_modules_functions_and_classes_stay_small() -> None:
    report([line for size in sizes() for line in oversize(*size)])


def test_the_ratchet_only_tightens() -> None:
    actual: dict[str, int] = {}
    caps: dict[str, int] = {}
    for key, size, cap, _, _ in sizes():
        actual[key], caps[key] = max(size, actual.get(key, 0)), cap
    wrong = []
    for key, allowed in RATCHET.items():
        size = actual.get(key, 0)
        if size <= caps.get(key, 0) or key not in actual:
            wrong.append(f"{key} is within its cap: take it out of RATCHET.")
        elif size < allowed:
            wrong.append(f"{key} has shrunk: set its entry in RATCHET to {size}.")
    report(wrong)


def test_names_say_what_things_are() -> None:
    wrong = []
    for module in modules().values():
        for word in re.split(r"[._]", module.name):
            if word in BANNED_NAMES:
                wrong.append(f'{module.path}: "{word}" says nothing; name it after {BANNED_NAMES[word]}.')
        for name, _ in classes(module):
            if name.endswith(BANNED_CLASS_ENDS):
                wrong.append(f"{module.path}: class {name} is named after nothing; say what it is.")
    report(wrong)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one module, or one that imports itself."""

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        ahead = [start]
        while ahead:
            for target in graph[ahead.pop()] - seen:
                seen.add(target)
                ahead.append(target)
        return seen

    reached = {name: reach(name) for name in graph}
    found = {
        tuple(sorted(other for other in reached[name] if name in reached[other]))
        for name in graph
        if name in reached[name]
    }
    return [list(circle) for circle in sorted(found)]


def test_imports_form_no_circle() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    advice = "move what they share to a module below them (imports for types and in functions count)."
    report([f"{' <-> '.join(circle)} import each other: {advice}" for circle in circles(imports())])


def test_no_import_points_upwards() -> None:
    wrong = []
    for name, targets in imports().items():
        for target in targets:
            if floor(target) > floor(name):
                wrong.append(
                    f"{name} (floor {floor(name)}) imports {target} (floor {floor(target)}): "
                    "pass it in as an argument, or state what is needed as a Protocol in engine/ports.py."
                )
    report(wrong)


def test_rules_are_pure() -> None:
    wrong = []
    for module in modules().values():
        if not is_rule(module.name):
            continue
        for name in imported_names(module) - PURE:
            if name in IMPURE or any(within(name, impure) for impure in IMPURE) or is_adapter(name):
                wrong.append(
                    f"{module.path} is a rule and imports {name}: take the time, randomness or answer as an "
                    "argument; if it is no rule, list it in tests/test_tidy.py."
                )
        if module.tree is not None and any(
            isinstance(n, ast.AsyncFunctionDef) for n in ast.walk(module.tree)
        ):
            wrong.append(f"{module.path} is a rule and has an async function: decide here, act in a service.")
    report(wrong)


def test_services_know_neither_adapters_nor_each_other() -> None:
    wrong = []
    for name in SERVICES & modules().keys():
        for target in imported_names(modules()[name]):
            if any(within(target, client) for client in CLIENTS) or is_adapter(target):
                wrong.append(f"{name} imports {target}: ask for it through a Protocol in engine/ports.py.")
        for target in imports()[name] & SERVICES - {name}:
            wrong.append(f"{name} imports {target}, both services: let engine/boot.py hand one to the other.")
    report(wrong)


def test_only_adapters_import_clients_and_adapters_not_each_other() -> None:
    wrong = []
    for module in modules().values():
        name = module.name
        if not within(name, "engine"):
            continue
        for target in imported_names(module):
            allowed = is_adapter(name) or floor(name) >= 4
            if any(within(target, client) for client in CLIENTS) and not allowed:
                wrong.append(
                    f"{name} imports {target}: only stores, providers, api and boot speak to servers."
                )
            for one, other in (("stores", "providers"), ("providers", "stores")):
                if within(name, f"engine.{one}") and within(target, f"engine.{other}"):
                    wrong.append(f"{name} imports {target}: move what both need to a rule or to the ground.")
    report(wrong)


def swallowing(module: Module) -> Iterator[int]:
    """Lines of handlers that catch everything and do not raise it again."""
    for node in ast.walk(module.tree) if module.tree is not None else ():
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type is not None else "BaseException"
            last = node.body[-1]
            raised_again = isinstance(last, ast.Raise) and last.exc is None
            if re.search(r"\b(Base)?Exception\b", caught) and not raised_again:
                yield node.lineno


def test_what_catches_everything_says_why() -> None:
    wrong = []
    for module in modules().values():
        lines = ["", *module.text.splitlines(), ""]
        for number in swallowing(module):
            beside = "#" in lines[number]
            if not beside and not any(lines[n].strip().startswith("#") for n in (number - 1, number + 1)):
                wrong.append(f"{module.path}:{number}: name the errors meant, or say why all are caught.")
    report(wrong)


def texts() -> Iterator[Path]:
    """Every text file of the project."""
    for directory, folders, files in os.walk(ROOT):
        folders[:] = [
            f for f in folders if f == ".ci" or not (f[0] == "." or f in NOT_OURS or "egg-info" in f)
        ]
        for file in files:
            if Path(file).suffix in TEXT_SUFFIXES and file != ".git":
                yield Path(directory, file)


def test_no_file_names_a_place_outside_the_project() -> None:
    wrong = []
    for file in texts():
        text = file.read_text(encoding="utf-8", errors="replace")
        named = [place for place in OUTSIDE if place in text]
        wrong += [
            f"{file.relative_to(ROOT)} names {place}: say it in the project's own words." for place in named
        ]
    report(wrong)
