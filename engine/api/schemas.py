"""JSON Schema of the records that go in and out of the API.

msgspec makes it of the types that it decodes and encodes by. This adds what types do not say: the sentences
of a `decoding.Shape` on what its fields may be, and the comments that stand above the fields of a record.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, get_args

import msgspec

from engine.api.decoding import Shape

REFERENCE = "#/components/schemas/"
_TEMPLATE = f"{REFERENCE}{{name}}"
# A record of one module only: it is written out where it is used.
_PRIVATE = re.compile(r"(^|\.)_[^.]*$")
_CLASS = re.compile(r"class (\w+)\b")
_FIELD = re.compile(r"    (\w+): ")
_COMMENT = re.compile(r"    # (.*)")


class Schemas:
    """The schemas of a document: `of` a type, `body` of a shape, and `components`, to which they refer."""

    def __init__(self, types: Iterable[Any], shapes: Iterable[Shape[Any]]) -> None:
        """`types` and `shapes` are all that will be asked for."""
        self._types = list(dict.fromkeys([*types, *(shape.record for shape in shapes)]))
        found, components = msgspec.json.schema_components(
            self._types, schema_hook=_anything, ref_template=_TEMPLATE
        )
        self._schemas = dict(zip(self._types, found, strict=True))
        self._components = components
        # By the name that msgspec gave, what it is called when another record has the same name.
        self._names = {name: _short(name) for name in components if "." in name}
        sentences = {shape.record: shape for shape in shapes}
        records = {_name(record, components): record for record in _records(self._types)}
        for name, schema in components.items():
            if (record := records.get(name)) is not None:
                _tell(schema, record, sentences.get(record))
        self.components = {
            self._names.get(name, name): self._written_out(schema)
            for name, schema in components.items()
            if not _PRIVATE.search(name)
        }

    def of(self, kind: Any) -> dict[str, Any]:
        """The schema of one of the types."""
        found: dict[str, Any] = self._written_out(self._schemas[kind])
        return found

    def answer(self, record: Any, items: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
        """The schema of an answer; `items`: by field that is an array, what its items may be."""
        schema = self.of(record)
        if not items:
            return schema
        schema = self._resolved(schema)
        properties = schema["properties"] | {
            name: {**schema["properties"][name], "items": {"anyOf": [self.of(one) for one in of]}}
            for name, of in items.items()
        }
        return {**schema, "properties": properties}

    def body(
        self,
        shape: Shape[Any],
        parts: Mapping[str, Shape[Any]],
        limits: Mapping[str, Mapping[str, Any]],
    ) -> dict[str, Any]:
        """The schema of a body: `parts` are the shapes of items that are decoded one by one, `limits` what
        can be said of a field beyond its type."""
        schema = self.of(shape.record)
        if not parts and not limits and "$ref" in schema:
            return schema
        schema = self._resolved(schema)
        properties = {name: dict(of) for name, of in schema.get("properties", {}).items()}
        for name, part in parts.items():
            properties[name] |= {"items": self.of(part.record)}
        for name, limit in limits.items():
            properties[name] = _limited(properties[name], limit)
        return {**schema, "properties": properties}

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        name = schema.get("$ref", "").removeprefix(REFERENCE)
        return {**self.components[name]} if name else schema

    def _written_out(self, schema: Any) -> Any:
        """The schema with records of one module only in place of references to them."""
        if isinstance(schema, list):
            return [self._written_out(one) for one in schema]
        if not isinstance(schema, dict):
            return schema
        name = str(schema.get("$ref", "")).removeprefix(REFERENCE)
        if _PRIVATE.search(name):
            inner = {key: value for key, value in self._components[name].items() if key != "title"}
            return self._written_out({**inner, **{k: v for k, v in schema.items() if k != "$ref"}})
        if name in self._names:
            schema = {**schema, "$ref": REFERENCE + self._names[name]}
        return {key: self._written_out(value) for key, value in schema.items()}


def _anything(kind: type) -> dict[str, Any]:
    """The schema of a type that msgspec encodes as it comes. Raises NotImplementedError for any other."""
    if kind is object:
        return {"description": "Any value."}
    raise NotImplementedError(kind)


def _limited(schema: dict[str, Any], limit: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a field with its limits, which are not those of null."""
    if "anyOf" not in schema:
        return {**schema, **limit}
    of = [{**one, **limit} if one.get("type") != "null" else one for one in schema["anyOf"]]
    return {**schema, "anyOf": of}


def _tell(schema: dict[str, Any], record: type, shape: Shape[Any] | None) -> None:
    """Add to the schema of a record what its type does not say."""
    comments, fields = _comments(record), msgspec.structs.fields(record)
    is_input = bool(record.__struct_config__.forbid_unknown_fields)  # type: ignore[attr-defined]
    omits = bool(record.__struct_config__.omit_defaults)  # type: ignore[attr-defined]
    for field in fields:
        name, of = field.encode_name, schema["properties"][field.encode_name]
        if datetime in (field.type, *get_args(field.type)):
            _of_type(of, "string")["format"] = "date-time"
        if not is_input and not omits:
            of.pop("default", None)
        if shape is not None and name in shape.not_null:
            # In a body an optional field that is null is as if it were absent.
            schema["properties"][name] = of = _or_null(of)
        if sentence := (shape.allowed.get(name) if shape else "") or comments.get(field.name, ""):
            of["description"] = sentence[:1].upper() + sentence[1:] + "." * (sentence[-1:] not in ".)")
    if not is_input and not omits:
        # What we write has all fields but those that may be unset.
        schema["required"] = [field.encode_name for field in fields if field.default is not msgspec.UNSET]
    if inspect.getdoc(record) == schema.get("description"):
        schema["description"] = _for_callers(schema.get("description", ""))


def _of_type(schema: dict[str, Any], kind: str) -> dict[str, Any]:
    """The part of it that is of this type."""
    return next((one for one in schema.get("anyOf", ()) if one.get("type") == kind), schema)


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    outside: dict[str, Any] = {key: schema[key] for key in ("default", "description") if key in schema}
    inside = {key: value for key, value in schema.items() if key not in outside}
    return {"anyOf": [inside, {"type": "null"}], **outside}


def _records(types: Iterable[Any]) -> Iterator[type]:
    """All records in these types and in their fields."""
    seen: set[Any] = set()
    waiting = list(types)
    while waiting:
        kind = waiting.pop()
        if kind in seen:
            continue
        seen.add(kind)
        waiting += get_args(kind)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            yield kind
            waiting += [field.type for field in msgspec.structs.fields(kind)]


def _name(record: type, components: Mapping[str, Any]) -> str:
    """Its name among the components: with its module when another one has the same."""
    whole = f"{record.__module__}.{record.__qualname__}"
    return whole if whole in components else record.__name__


def _comments(record: type) -> dict[str, str]:
    """By field, the comment above it, also of the records that it is made from."""
    found: dict[str, str] = {}
    for base in reversed(record.__mro__):
        if issubclass(base, msgspec.Struct) and (path := inspect.getmodule(base)) and path.__file__:
            found |= _comments_in(path.__file__).get(base.__name__, {})
    return found


@cache
def _comments_in(path: str) -> dict[str, dict[str, str]]:
    """By class and field, the comments above fields in a file; none where only compiled files are."""
    found: dict[str, dict[str, str]] = {}
    of: dict[str, str] = {}
    above: list[str] = []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return found
    for line in lines:
        if begins := _CLASS.match(line):
            of = found[begins[1]] = {}
        if comment := _COMMENT.fullmatch(line):
            above.append(comment[1])
            continue
        if (field := _FIELD.match(line)) and above:
            of[field[1]] = _for_callers(" ".join(above))
        above = []
    return found


def _for_callers(sentence: str) -> str:
    """As somebody reads it who sees JSON."""
    return re.sub(r"\bNone\b", "null", sentence)


def _short(name: str) -> str:
    """A name without dots: the class alone for a record of the API, else with its module's before it."""
    module, _, own = name.rpartition(".")
    if module.startswith("engine.api"):
        return own
    return "".join(word.capitalize() for word in module.rpartition(".")[2].split("_")) + own
