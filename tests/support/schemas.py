"""A judge of JSON values by JSON Schema, as far as the product's own descriptions use it.

A word of a schema that it does not know is an error: a judge that overlooks words finds everything right.
"""

from typing import Any

_KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_SAYS_NOTHING = {"title", "description", "default"}
_WORDS = _SAYS_NOTHING | {
    "$ref", "type", "properties", "required", "items", "anyOf", "enum", "additionalProperties", "minimum", "maximum",
}  # fmt: skip


def problems(schema: dict[str, Any], value: Any, document: dict[str, Any], place: str = "$") -> list[str]:
    """Return what in a value does not fit a schema of a document; nothing when it fits."""
    unknown = schema.keys() - _WORDS
    assert not unknown, f"{place}: the schema uses {unknown}, which is not judged here"
    if "$ref" in schema:
        return problems(resolved(schema["$ref"], document), value, document, place)
    if "anyOf" in schema:
        found = [problems(each, value, document, place) for each in schema["anyOf"]]
        return [] if [] in found else [f"{place}: fits none of {len(found)}: {found}"]
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        return [f"{place}: {value!r} is not {kinds}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{place}: {value!r} is not one of {schema['enum']}"]
    if isinstance(value, dict):
        return _object_problems(schema, value, document, place)
    if isinstance(value, list):
        items = schema.get("items", {})
        return [one for at, each in enumerate(value) for one in problems(items, each, document, f"{place}[{at}]")]
    if isinstance(value, int | float) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        return [f"{place}: {value!r} is out of range"]
    return []


def resolved(reference: str, document: dict[str, Any]) -> dict[str, Any]:
    """Return what a reference within the document points at."""
    start, *steps = reference.split("/")
    assert start == "#", reference
    found: Any = document
    for step in steps:
        found = found[step]
    assert isinstance(found, dict)
    return found


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _KINDS[kind])


def _object_problems(schema: dict[str, Any], value: dict[str, Any], document: dict[str, Any], place: str) -> list[str]:
    properties = schema.get("properties", {})
    others = schema.get("additionalProperties", True)
    found = [f"{place}: {name} is missing" for name in schema.get("required", []) if name not in value]
    for name, each in value.items():
        if name in properties:
            found += problems(properties[name], each, document, f"{place}.{name}")
        elif others is False:
            found.append(f"{place}: {name} is not described")
        elif isinstance(others, dict):
            found += problems(others, each, document, f"{place}.{name}")
    return found
