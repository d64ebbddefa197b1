"""What is wrong with a setting, in one sentence that names it and says what is allowed.

msgspec says which part of a value does not fit, and one bound of it. The sentence here is made
from the declaration of the setting, so it says everything that is allowed.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect

_PATH = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`")
# Reading the declarations of all settings takes ten milliseconds.
_type_info = cache(inspect.type_info)


def sentence_of(error: msgspec.ValidationError, tables: Any, record: type) -> str:
    """The sentence, without a full stop, for the `error` of converting `tables` to `record`.

    `tables` are what TOML gave. Items of a list are named by their `name` when they have one, else by
    their place, counted from 0.
    """
    parts = _PATH.fullmatch(str(error))
    assert parts is not None
    names: list[str] = []
    declared: Any = _type_info(record)
    for field, place in _STEP.findall(parts["path"] or ""):
        tables = _part(tables, field or place)
        named = isinstance(tables, dict) and isinstance(tables.get("name"), str) and not field
        # msgspec writes `...` for an entry of a table with free keys, so nobody knows which it is.
        names.append(tables["name"] if named else field or place.replace("...", "*"))
        declared = _inner(declared, field, tables)
    if unknown := _UNKNOWN.fullmatch(parts["what"]):
        allowed = ", ".join(sorted(_fields(declared)))
        return f"{'.'.join([*names, unknown[1]])} is no setting; those here are: {allowed}"
    if missing := _MISSING.fullmatch(parts["what"]):
        return f"{'.'.join([*names, missing[1]])} must be given"
    return f"{'.'.join(names)} must be {_allowed(declared)}"


def _part(tables: Any, step: str) -> Any:
    """The value one step further in; None when msgspec does not name the step (`...`)."""
    if isinstance(tables, dict):
        return tables.get(step)
    return tables[int(step)] if isinstance(tables, list) and step.isdecimal() else None


def _fields(declared: Any) -> dict[str, Any]:
    """The types of a section's settings by name, without the tag."""
    return {f.name: f.type for f in declared.fields} if isinstance(declared, inspect.StructType) else {}


def _inner(declared: Any, field: str, tables: Any) -> Any:
    """The type one step further in; of several kinds of section, the one that the tag in `tables` names."""
    match declared:
        case inspect.StructType() if field == declared.tag_field:
            return inspect.LiteralType((declared.tag,))
        case inspect.StructType():
            found = _fields(declared).get(field)
        case inspect.DictType():
            found = declared.value_type
        case inspect.ListType() | inspect.VarTupleType():
            found = declared.item_type
        case inspect.UnionType() if all(isinstance(t, inspect.StructType) for t in declared.types):
            # The tag must be wrong here, because with a good one the kind is known.
            return inspect.LiteralType(tuple(t.tag for t in declared.types))  # type: ignore[attr-defined]
        case _:
            found = None
    if isinstance(found, inspect.UnionType):
        kinds = [t for t in found.types if not isinstance(t, inspect.NoneType)]
        tag = tables.get("type") if isinstance(tables, dict) else None
        of_tag = [t for t in kinds if isinstance(t, inspect.StructType) and t.tag == tag]
        return (of_tag or kinds)[0] if of_tag or len(kinds) == 1 else found
    return found


def _allowed(declared: Any) -> str:
    match declared:
        case inspect.IntType():
            return "a whole number" + _bounds(declared)
        case inspect.FloatType():
            return "a number" + _bounds(declared)
        case inspect.StrType():
            return "text"
        case inspect.BoolType():
            return "true or false"
        case inspect.LiteralType():
            return "one of: " + ", ".join(map(str, declared.values))
        case inspect.ListType() | inspect.VarTupleType():
            items = getattr(declared.item_type, "types", (declared.item_type,))
            sections = all(isinstance(item, inspect.StructType) for item in items)
            return "sections [[...]]" if sections else "a list"
        case inspect.UnionType() if not any(isinstance(t, inspect.StructType) for t in declared.types):
            return " or ".join(_allowed(t) for t in declared.types)
        case _:
            return "a section"


def _bounds(declared: Any) -> str:
    least, above, most = (_shown(getattr(declared, bound)) for bound in ("ge", "gt", "le"))
    if least and most:
        return f" from {least} to {most}"
    texts = [f"at least {least}" if least else "", f"greater than {above}" if above else ""]
    texts += [f"at most {most}" if most else ""]
    return "".join(f" {'and ' if i else ''}{text}" for i, text in enumerate(filter(None, texts)))


def _shown(bound: float | None) -> str:
    if bound is None:
        return ""
    return str(int(bound)) if bound == int(bound) else str(bound)
