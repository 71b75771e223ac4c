"""The description: whole, well formed, and of the types that are answered with."""

from typing import Any

import pytest

from proxy.admin.openapi import DESCRIPTION_PATH, EVENTS_PATH, document, refusals
from proxy.admin.operations import OPERATIONS
from support.schemas import problems, resolved

DOCUMENT = document(is_token_needed=True)


def references(value: Any) -> list[str]:
    """Return every reference in a document."""
    if isinstance(value, dict):
        own = [value["$ref"]] if "$ref" in value else []
        return own + [one for each in value.values() for one in references(each)]
    return [one for each in value for one in references(each)] if isinstance(value, list) else []


def test_every_operation_is_described() -> None:
    """The table and the description hold the same, and the two that stand beside the table are there."""
    described = {(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    offered = {(operation.method.lower(), operation.path) for operation in OPERATIONS}

    assert described == offered | {("get", EVENTS_PATH), ("get", DESCRIPTION_PATH)}


@pytest.mark.parametrize("path", DOCUMENT["paths"])
def test_every_path_declares_what_stands_in_it(path: str) -> None:
    """A parameter in braces is declared, and each operation says what it does and answers."""
    for entry in DOCUMENT["paths"][path].values():
        declared = {each["name"] for each in entry.get("parameters", ()) if each["in"] == "path"}

        assert declared == {part[1:-1] for part in path.split("/") if part.startswith("{")}
        assert entry["summary"]
        assert any(status.startswith("2") for status in entry["responses"])
        assert all(response["description"] for response in entry["responses"].values())
        assert all(each["description"] for each in entry.get("parameters", ()))


def test_every_reference_leads_somewhere() -> None:
    """No schema is named that is not there, and none is there that nobody names."""
    found = references(DOCUMENT)

    assert found
    assert all(resolved(each, DOCUMENT) for each in found)
    assert set(DOCUMENT["components"]["schemas"]) == {each.rpartition("/")[2] for each in found}


def test_names_of_operations_are_unique() -> None:
    """A generated client has one method per operation."""
    names = [entry["operationId"] for methods in DOCUMENT["paths"].values() for entry in methods.values()]

    assert len(names) == len(set(names))


def test_the_token_is_described_where_there_is_one() -> None:
    """With a token all but the probes ask for it; without one nothing does."""
    assert DOCUMENT["security"] == [{"token": []}]
    assert DOCUMENT["paths"]["/livez"]["get"]["security"] == []
    assert "security" not in DOCUMENT["paths"]["/status"]["get"]
    assert "security" not in repr(document(is_token_needed=False))


def test_what_must_be_in_a_body_is_said() -> None:
    """A swap wants its two upstreams and takes no word it does not know; a drain wants nothing."""
    swap = DOCUMENT["paths"]["/swaps"]["post"]["requestBody"]
    schema = swap["content"]["application/json"]["schema"]

    assert swap["required"] is True
    assert DOCUMENT["paths"]["/upstreams/{name}/drain"]["post"]["requestBody"]["required"] is False
    assert problems(schema, {"old": "a", "new": "b", "percent": 5}, DOCUMENT) == []
    assert problems(schema, {"old": "a"}, DOCUMENT) == ["$: new is missing"]
    assert problems(schema, {"old": "a", "new": "b", "precent": 5}, DOCUMENT) == ["$: precent is not described"]
    assert problems(schema, {"old": "a", "new": "b", "percent": 101}, DOCUMENT) == ["$.percent: 101 is out of range"]


def test_refusals_follow_from_what_is_asked() -> None:
    """A look needs no body and cannot conflict; a change can."""
    by_name = {operation.name: refusals(operation) for operation in OPERATIONS}

    assert by_name["isAlive"] == [400, 403, 500]
    assert by_name["getStatus"] == [400, 401, 403, 500]
    assert by_name["getSession"] == [400, 401, 403, 404, 409, 500]
    assert by_name["swap"] == [400, 401, 403, 404, 409, 413, 415, 500]
