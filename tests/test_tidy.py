"""The style of the code, as a test. A failure says what to do.

A *room* is a folder of modules. Rooms stand on floors, from the ground up:

    ground      the modules right under `engine/`: records, errors, ids; they import no room. On them stand
                the rooms of what every other needs: time, the log, hosts, leases
    domains     `engine/<domain>/`: rules, and services that know rules and ports
    adapters    `engine/stores/` and `engine/providers/`: the only ones that know clients of servers
    boot        `engine/boot/`: puts the roles together
    supervisor, benchmarks, tests

Which room stands on which is not listed here: it follows from the imports. A room's floor is one
above the highest room it imports, so there is a floor for each as long as the rooms import each
other in no circle, and that is what the test asks. Every import counts, also one made for types
only or inside a function, because those are what hides a circle.

A package's `__init__` that puts its modules together, and its `__main__`, are rooms of their own
above it.
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
# From the ground up: none imports one that comes after it.
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
}
# Modules that only one module outside their room imports, and why they do not live beside it.
APART: dict[str, str] = {
    "engine.boot": "the supervisor calls it, in the child that it has forked",
    "engine.activity.report_rows": "it makes what `engine.activity.reports` says, whoever found the sums",
    "engine.stores.clickhouse.erasure": "it is of one server, as its neighbours are",
    "engine.stores.clickhouse.message_list": "it is of one server, as its neighbours are",
    "engine.stores.ready_clickhouse": "it asks stores, which only adapters may",
    "supervisor.embedded.rewrites": "it knows what the embedded Redis has in its folder",
    "engine.providers.presets": "a folder of data, one file for each carrier",
}

# Who may import a client of a server.
CLIENTS = {"redis", "hiredis", "asyncpg", "clickhouse_connect", "aiohttp"}
# Rooms whose subject is the time, a file or a name server, so they ask the system for it.
GROUND = ("engine.clocks", "engine.hosts", "engine.leases", "engine.logs")
ADAPTERS = ("engine.stores", "engine.providers", "engine.api", "engine.console", "engine.boot")
# What a domain may know of the providers: what they are asked for, and how they are set up.
PROVIDER_FACE = {"engine.providers.ports", "engine.providers.settings"}
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


@cache
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
            if target in modules() and target != module.name:
                graph[module.name].add(target)
    return graph


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


@cache
def room(name: str) -> str:
    """The room that a module is in; the ground is the room `engine`."""
    module, package = modules()[name], name.rpartition(".")[0]
    if module.path.endswith("__init__.py"):
        alone = not any(other.rpartition(".")[0] == name for other in modules())
        return name if alone or name in TOPS or not imports()[name] else f"{name}.__init__"
    return f"{package}.__main__" if name.endswith(".__main__") else package


@cache
def rooms() -> dict[str, set[str]]:
    """Which other rooms each room imports."""
    graph: dict[str, set[str]] = {room(name): set() for name in modules()}
    for name, targets in imports().items():
        graph[room(name)] |= {room(target) for target in targets} - {room(name)}
    return graph


@cache
def floor(of_room: str) -> int:
    """One above the highest room that it imports. Only for rooms without a circle."""
    return 1 + max((floor(below) for below in rooms()[of_room]), default=0)


def is_domain(name: str) -> bool:
    """Whether it is a rule or a service: in a room under engine/ that is no adapter nor of the ground."""
    parts = name.split(".")
    apart = any(within(name, adapter) for adapter in (*ADAPTERS, *GROUND, "engine.config"))
    return parts[0] == "engine" and len(parts) == 3 and not apart


def is_service(module: Module) -> bool:
    """Whether it waits for something; a domain's module that does not is a rule."""
    assert module.tree is not None
    waits = any(isinstance(node, ast.AsyncFunctionDef) for node in ast.walk(module.tree))
    return waits or any(within(name, "asyncio") for name in imported_names(module))


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


@cache
def sizes() -> tuple[tuple[str, int, int, str, str], ...]:
    """(key, size, cap, what, advice) of everything that has a cap."""
    return tuple(capped())


def capped() -> Iterator[tuple[str, int, int, str, str]]:
    """What `sizes` has, as it is found."""
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
    assert "engine.errors" in imports()["engine.intake.segments"]
    assert room("engine.errors") == "engine"
    assert room("engine.intake.segments") == "engine.intake"


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


def test_rooms_form_no_circle() -> None:
    advice = "move what they share to a room below both, or the module to the room that it serves."
    report([f"{' <-> '.join(circle)} import each other: {advice}" for circle in circles(rooms())])


def test_no_import_points_upwards() -> None:
    wrong = []
    for name, targets in imports().items():
        for target in targets:
            top, below = name.partition(".")[0], target.partition(".")[0]
            if TOPS.index(below) > TOPS.index(top) or (room(name) == "engine" and room(target) != "engine"):
                wrong.append(f"{name} imports {target}, which stands above it: pass it in as an argument, or "
                             "state what is needed as a Protocol in the ports of its room.")  # fmt: skip
    report(wrong)


def test_the_ground_is_the_lowest_floor_and_boot_the_highest_of_the_engine() -> None:
    floors = {name: floor(name) for name in rooms() if within(name, "engine")}
    assert floors["engine"] == 1
    assert max(floors, key=lambda name: floors[name]) == "engine.boot.__init__"


def test_domains_know_no_adapter() -> None:
    wrong = []
    for module in filter(lambda m: is_domain(m.name), modules().values()):
        for target in imported_names(module):
            client = any(within(target, client) for client in CLIENTS)
            ours = target if target in modules() else target.rpartition(".")[0]
            adapter = any(within(ours, adapter) for adapter in ADAPTERS) and ours not in PROVIDER_FACE
            if client or adapter:
                wrong.append(
                    f"{module.name} imports {target}: ask for it through a Protocol in the ports of its room."
                )
    report(wrong)


def test_rules_are_pure_and_services_take_time_and_chance_as_arguments() -> None:
    wrong = []
    # What is compiled is read by line, and waits for nothing.
    for module in filter(lambda m: m.tree is not None and is_domain(m.name), modules().values()):
        waiting = {"asyncio", "contextvars"} if is_service(module) else set()
        for name in imported_names(module) - PURE:
            if any(within(name, impure) for impure in IMPURE - waiting):
                wrong.append(
                    f"{module.path} imports {name}: take the time, randomness or answer as an argument."
                )
    report(wrong)


def test_stores_and_providers_do_not_know_each_other() -> None:
    wrong = []
    for name, targets in imports().items():
        for one, other in (("stores", "providers"), ("providers", "stores")):
            for target in targets:
                if within(name, f"engine.{one}") and within(target, f"engine.{other}"):
                    wrong.append(f"{name} imports {target}: move what both need to a room below them.")
    report(wrong)


def test_only_adapters_import_clients() -> None:
    wrong = []
    for module in modules().values():
        if not within(module.name, "engine") or any(within(module.name, adapter) for adapter in ADAPTERS):
            continue
        for target in imported_names(module):
            if any(within(target, client) for client in CLIENTS):
                wrong.append(f"{module.name} imports {target}: only {', '.join(ADAPTERS)} speak to servers.")
    report(wrong)


def near(user: str) -> str:
    """The place whose modules are beside `user`: everything, for what puts parts together."""
    together = within(user, "engine.boot") or room(user).endswith(("__init__", "__main__"))
    return user.partition(".")[0] if together else room(user)


def test_a_module_lives_beside_the_only_one_that_needs_it() -> None:
    users: dict[str, set[str]] = {name: set() for name in modules()}
    for name, targets in imports().items():
        for target in targets:
            users[target].add(name)
    wrong = []
    for name, by in users.items():
        ours = {user for user in by if not within(user, "tests")}
        # What puts parts together imports each of them alone, and that is its purpose.
        far = len(ours) == 1 and not any(within(room(name), near(user)) for user in ours)
        if far and room(name) not in TOPS and not within(name, "tests") and name not in APART:
            wrong.append(f"{name} is only needed by {ours.pop()}: move it there, or say in APART why not.")
        if name in APART and not far:
            wrong.append(f"{name} is no longer needed by one other room alone: take it out of APART.")
    report(wrong)


def undocumented(module: Module) -> Iterator[str]:
    """Public definitions without a docstring: "line name". What overrides or overloads may be silent."""
    if module.tree is None:
        return

    def look(body: list[ast.stmt], owner: str) -> Iterator[str]:
        for node in body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            # The name of a test is the promise that it keeps.
            special = node.name.startswith(("_", "test_"))
            decorators = {ast.unparse(d).rpartition(".")[2] for d in node.decorator_list}
            if (
                not special
                and not decorators & {"override", "overload", "setter"}
                and not ast.get_docstring(node)
            ):
                yield f"{node.lineno} {owner}{node.name}"
            if isinstance(node, ast.ClassDef) and not special:
                yield from look(node.body, f"{node.name}.")

    if module.text.strip() and not ast.get_docstring(module.tree):
        yield "1 the module"
    yield from look(module.tree.body, "")


def test_every_public_definition_has_a_docstring() -> None:
    report(
        [
            f"{module.path}:{place} has no docstring: say what it does, in which units."
            for module in modules().values()
            if not within(module.name, "tests")
            for place in undocumented(module)
        ]
    )


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


def test_pages_name_files_that_exist() -> None:
    paths = [str(file.relative_to(ROOT)) for file in texts()]
    wrong = []
    for page in [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md"))]:
        if page.name == "CHANGELOG.md":
            continue
        for named in re.findall(r"`([\w/.-]+\.(?:py|pyx|lua))`", page.read_text(encoding="utf-8")):
            if not any(path == named or path.endswith(f"/{named}") for path in paths):
                wrong.append(f"{page.relative_to(ROOT)} names {named}, which is not there.")
    report(wrong)
