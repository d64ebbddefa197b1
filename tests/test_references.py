"""What docstrings, comments and pages name of the project is there, and so is what pages link to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACES = ("engine", "supervisor", "benchmarks", "examples", "tests", "docs", "README.md", "CONTRIBUTING.md")
# Not `.sql`: a released migration is never changed, also when what its comments name has moved.
SUFFIXES = {".py", ".pyi", ".pyx", ".lua", ".md", ".toml"}
# A path with a folder, and a dotted name; a name in code type that ends in a call or has a space is neither.
_PATH = re.compile(r"(?<![\w./{}-])[\w-]+(?:/[\w-]+)*/[\w-]+\.(?:py|pyx|pyi|lua)\b")
_NAME = re.compile(r"`((?:engine|supervisor|benchmarks|tests)(?:\.\w+)+)`")
# Names as they were before rooms were folders.
_FLAT = re.compile(r"`((?:smpp|http|simulator|cli|credit|receipt)_[a-z]+)(?:\.\w+)*`")
# A link to a heading of a page; an empty page is the one that has the link.
_LINK = re.compile(r"\]\(([\w./-]*)#([\w-]+)\)")
_BLOCK = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def texts() -> Iterator[tuple[Path, str]]:
    """(path below the root, text) of every file of ours that explains something."""
    for place in PLACES:
        for path in [ROOT / place] if "." in place else sorted((ROOT / place).rglob("*")):
            if path.suffix in SUFFIXES and "__pycache__" not in path.parts:
                yield path.relative_to(ROOT), path.read_text(encoding="utf-8")


def lines() -> Iterator[tuple[str, str]]:
    """(where, line) of all of them."""
    for path, text in texts():
        for number, line in enumerate(text.splitlines(), 1):
            yield f"{path}:{number}", line


def module_of(name: str) -> Path | None:
    """The file of the longest part of a dotted name that is a module or a package."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        base = ROOT.joinpath(*parts[:count])
        for path in (base.with_suffix(".py"), base.with_suffix(".pyx"), base / "__init__.py"):
            if path.exists():
                return path
    return None


def is_there(name: str) -> bool:
    """Whether it is a module, or every part after the module's name is a word of the module."""
    path = module_of(name)
    if path is None:
        return False
    known = {*path.relative_to(ROOT).with_suffix("").parts}
    known |= set(re.findall(r"\w+", path.read_text(encoding="utf-8")))
    return set(name.split(".")) <= known


def test_a_path_that_is_named_is_there() -> None:
    paths = [f"/{path}" for path, _ in texts()]
    wrong = [
        f"{where} names {path}"
        for where, line in lines()
        for path in _PATH.findall(line)
        if not any(known.endswith(f"/{path}") for known in paths)
    ]
    assert not wrong, "\n" + "\n".join(wrong)


def test_a_module_and_what_is_in_it_are_there() -> None:
    found = [(where, name) for where, line in lines() for name in _NAME.findall(line)]
    assert len(found) > 50
    wrong = [f"{where} names {name}" for where, name in found if not is_there(name)]
    assert not wrong, "\n" + "\n".join(wrong)


def test_no_module_is_named_as_it_was_before_it_moved() -> None:
    outside = re.compile(r"(?<![`\w])\w+(?![`\w])")
    code = {word for path, text in texts() if path.suffix == ".py" for word in outside.findall(text)}
    wrong = [
        f"{where} names {name}" for where, line in lines() for name in _FLAT.findall(line) if name not in code
    ]
    assert not wrong, "\n" + "\n".join(wrong)


def anchors(page: Path) -> set[str]:
    """What a link to a heading of the page ends in, as GitHub makes it."""
    headings = re.findall(r"^#+ (.*)$", _BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def test_a_heading_that_a_page_links_to_is_there() -> None:
    pages = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
    links = [
        (page, (page.parent / name).resolve() if name else page, anchor)
        for page in pages
        for name, anchor in _LINK.findall(page.read_text(encoding="utf-8"))
    ]
    assert len(links) > 50
    wrong = [
        f"{page.relative_to(ROOT)} links to #{anchor} of {target.name}"
        for page, target, anchor in links
        if not target.exists() or anchor not in anchors(target)
    ]
    assert not wrong, "\n" + "\n".join(wrong)


def test_each_page_is_in_the_index_of_the_readme() -> None:
    index = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Where things are")[2]
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}
    assert pages - set(re.findall(r"`(docs/[\w-]+\.md)`", index)) == set()
