"""Own the description of the admin API: OpenAPI 3.1, made of the table of operations and the types of the views.

Knows no HTTP library and writes no schema by hand where a type says it. Invariant: every path that is served is
described, with every status it may be answered with.
"""

from typing import Annotated, Any

import msgspec

from proxy import __version__
from proxy.admin.operations import OPERATIONS, NoQuery, Operation

EVENTS_PATH = "/events"
DESCRIPTION_PATH = "/openapi.json"
_REF = "#/components/schemas/{name}"
_SUMMARY = "Operations on a running mcp-session-proxy: its sessions, upstreams, jobs and configuration."


class Problem(msgspec.Struct, kw_only=True):
    """Why a request was not served."""

    code: Annotated[str, msgspec.Meta(description="a word for programs: not_found, ambiguous, invalid, conflict, ...")]
    message: Annotated[str, msgspec.Meta(description="a sentence for people")]


class ErrorBody(msgspec.Struct, kw_only=True):
    """The body of every answer that says no."""

    error: Problem


class EventQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which events to read."""

    since: Annotated[
        str, msgspec.Meta(description="id of the last event known; 0: all that are kept; empty: only new ones")
    ] = ""
    follow: Annotated[bool, msgspec.Meta(description="stay for what comes; if not, what is kept and the end")] = True


_REASONS = {
    400: "not a valid request",
    401: "the token is missing or wrong",
    403: "asked by a web page, or by a name that is not of this machine",
    404: "there is no such thing",
    409: "not possible as things are, or more than one thing is meant",
    413: "the body is too large",
    415: "the body is not JSON",
    500: "a defect of the proxy",
    503: "not now",
}


def refusals(operation: Operation) -> list[int]:
    """Return the statuses with which an operation says no."""
    statuses = {400, 403, 500}
    if not operation.is_open:
        statuses.add(401)
    if "{" in operation.path:
        statuses.add(404)
    if operation.is_change:
        # A body names things that may not be there, too.
        statuses |= {404, 409, 413, 415}
    elif "{id}" in operation.path:
        statuses.add(409)
    if operation.query is not NoQuery:
        statuses.add(404)
    return sorted(statuses)


def document(*, is_token_needed: bool) -> dict[str, Any]:
    """Return the whole description."""
    types = [kind for each in OPERATIONS for kind in (each.answer, each.body) if kind is not None]
    types = list({id(kind): kind for kind in [*types, ErrorBody]}.values())
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    schema_of = {id(kind): schema for kind, schema in zip(types, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        entry = _entry(operation, schema_of, is_token_needed=is_token_needed)
        paths.setdefault(operation.path, {})[operation.method.lower()] = entry
    paths[EVENTS_PATH] = {"get": _events_entry()}
    paths[DESCRIPTION_PATH] = {"get": _description_entry()}
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "mcp-session-proxy admin API",
            "version": __version__,
            "summary": _SUMMARY,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": components},
    }
    if is_token_needed:
        described["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"token": []}]
    return described


def _entry(operation: Operation, schema_of: dict[int, Any], *, is_token_needed: bool) -> dict[str, Any]:
    says_yes: dict[str, Any] = {"description": operation.summary}
    if operation.answer is not None:
        says_yes["content"] = _json(schema_of[id(operation.answer)])
    responses = {str(operation.status): says_yes}
    if operation.path == "/readyz":
        responses["503"] = {**says_yes, "description": "It should not; the reasons say why"}
    responses |= {str(status): _refusal(status) for status in refusals(operation)}
    entry: dict[str, Any] = {"operationId": operation.name, "summary": operation.summary, "responses": responses}
    parameters = [*_path_parameters(operation.path), *_query_parameters(operation.query)]
    if parameters:
        entry["parameters"] = parameters
    if operation.body is not None:
        is_required = any(field.required for field in msgspec.structs.fields(operation.body))
        entry["requestBody"] = {"required": is_required, "content": _json(schema_of[id(operation.body)])}
    if operation.is_open and is_token_needed:
        entry["security"] = []
    return entry


def _events_entry() -> dict[str, Any]:
    text = (
        "Server-sent events, each with its id, its name and a JSON object as data: id, time, event and what the event "
        "says. An event named gap tells how many are missing (missed; null when nobody knows) and why (reason). "
        "Comments are heartbeats. Last-Event-ID goes on behind that event, as does since."
    )
    last = {
        "name": "Last-Event-ID", "in": "header", "required": False, "schema": {"type": "string"},
        "description": "as since, which it goes over",
    }  # fmt: skip
    stream = {"description": "The stream", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
    return {
        "operationId": "followEvents",
        "summary": "The live feed of events, resumable",
        "description": text,
        "parameters": [*_query_parameters(EventQuery), last],
        "responses": {"200": stream, **{str(status): _refusal(status) for status in (400, 401, 403, 500, 503)}},
    }


def _description_entry() -> dict[str, Any]:
    return {
        "operationId": "getDescription",
        "summary": "This description",
        "responses": {
            "200": {"description": "An OpenAPI document", "content": _json({"type": "object"})},
            **{str(status): _refusal(status) for status in (400, 401, 403, 500)},
        },
    }


def _refusal(status: int) -> dict[str, Any]:
    return {"description": _REASONS[status], "content": _json({"$ref": _REF.format(name=ErrorBody.__name__)})}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _path_parameters(path: str) -> list[dict[str, Any]]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    says = {
        "/sessions": "its id, the first 6 or more characters of it, or its fingerprint",
        "/upstreams": "name of the upstream",
        "/jobs": "id of the job",
    }
    text = next(words for prefix, words in says.items() if path.startswith(prefix)) if names else ""
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}, "description": text}
        for name in names
    ]


def _query_parameters(query: type) -> list[dict[str, Any]]:
    _, components = msgspec.json.schema_components([query])
    parameters = []
    for name, schema in components[query.__name__]["properties"].items():
        plain = {key: value for key, value in schema.items() if key != "description"}
        parameters.append(
            {
                "name": name,
                "in": "query",
                "required": False,
                "schema": plain,
                "description": schema["description"],
            }
        )
    return parameters
