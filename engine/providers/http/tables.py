"""Reads the tables in which an operator describes a provider's HTTP API; a mistake becomes a sentence.

A preset has the same tables. What the operator gives is laid over it, key by key: a key that is a
table in both is merged, and anything else replaces what the preset says.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from engine.errors import ConfigError

_Table = TypeVar("_Table", bound=msgspec.Struct)

_PLAIN = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`; neither is changed."""
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        both = isinstance(under, Mapping) and isinstance(value, Mapping)
        result[key] = merged(under, value) if both else value  # type: ignore[arg-type]
    return result


def decoded(table: object, kind: type[_Table], where: str) -> _Table:
    """`table` as a record of `kind`; `where` is its name in the configuration.

    Raises ConfigError naming the key that is wrong and what is allowed there.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} must be a table, not {shown(table)}.")
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for key in table:
        if key not in fields:
            raise ConfigError(f"{where}.{key} is not known; allowed are {', '.join(sorted(fields))}.")
    given = {}
    for key, value in table.items():
        field = fields[key]
        given[field.name] = _value(value, field.type, f"{where}.{key}")
    return kind(**given)


def shown(value: object) -> str:
    """A value of the configuration as it may stand in a sentence."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _value(value: Any, kind: Any, where: str) -> Any:
    inner = [arm for arm in get_args(kind) if isinstance(arm, type) and issubclass(arm, msgspec.Struct)]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return decoded(value, kind, where)
    if inner and get_origin(kind) in (Union, UnionType):
        return decoded(value, inner[0], where)
    if inner and get_origin(kind) is tuple:
        # One table may stand for a list of one.
        tables = value if isinstance(value, list) else [value]
        return tuple(decoded(one, inner[0], where) for one in tables)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as e:
        raise ConfigError(f"{where} must be {_described(kind)}, not {shown(value)}.") from e


def _described(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _described(arguments[0])
    if origin is Literal:
        return " or ".join(repr(choice) for choice in arguments)
    if origin is list:
        return f"a list, each {_described(arguments[0])}"
    if origin is dict:
        return "a table" if arguments[1] is Any else f"a table, each value {_described(arguments[1])}"
    if origin in (Union, UnionType):
        return " or ".join(_described(arm) for arm in arguments)
    return _PLAIN.get(kind, "another value")
