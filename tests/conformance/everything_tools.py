"""The tools and prompts that the conformance suite's scenarios name, in the shapes they check.

Owns two tables, `TOOLS` and `PROMPTS`: name to input schema and coroutine. Knows nothing of HTTP or of
sessions; a tool speaks to its client through the request context alone.
"""

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import mcp_types as types
from mcp.server.subscriptions import InMemorySubscriptionBus
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import PromptsListChanged, ToolsListChanged

Json = dict[str, Any]
Tool = Callable[[Any, Json], Awaitable[Json]]

INVALID_PARAMS = -32602
MISSING_CAPABILITY = -32021

PIXEL_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
SILENT_WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA="
STATES = {secrets.token_urlsafe(24): step for step in ("confirm", "round-1", "round-2", "guarded")}
TOKENS = {step: token for token, step in STATES.items()}


def text(value: str) -> Json:
    """Wrap a text as tool content."""
    return {"content": [{"type": "text", "text": value}]}


def embedded(uri: str, mime: str, body: str) -> Json:
    """Make a content block that embeds a text resource."""
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime, "text": body}}


PNG = {"type": "image", "data": PIXEL_PNG, "mimeType": "image/png"}
ELICITED = {
    "defaults": {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    },
    "enums": {
        "untitledSingle": {"type": "string", "enum": ["option1", "option2", "option3"]},
        "titledSingle": {
            "type": "string",
            "oneOf": [
                {"const": f"value{n}", "title": f"{word} Option"} for n, word in enumerate(("First", "Second"), 1)
            ],
        },
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {
            "type": "array",
            "items": {"type": "string", "enum": ["option1", "option2", "option3"]},
        },
        "titledMulti": {
            "type": "array",
            "items": {
                "anyOf": [
                    {"const": f"value{n}", "title": f"{word} Choice"} for n, word in enumerate(("First", "Second"), 1)
                ]
            },
        },
    },
}


def fixed(result: Json) -> Tool:
    """Make a tool that always gives the same result."""

    async def answer(ctx: Any, arguments: Json) -> Json:
        return result

    return answer


async def with_logging(ctx: Any, arguments: Json) -> Json:
    """Log three lines around two short waits."""
    lines = ("Tool execution started", "Tool processing data", "Tool execution completed")
    for at, line in enumerate(lines):
        await asyncio.sleep(0.05 if at else 0)
        await ctx.session.send_log_message("info", line, related_request_id=ctx.request_id)
    return text("logged")


async def with_progress(ctx: Any, arguments: Json) -> Json:
    """Report 0, 50 and 100 of 100."""
    for at in (0, 50, 100):
        await asyncio.sleep(0.05 if at else 0)
        await ctx.session.report_progress(at, 100)
    return text("progressed")


async def sampling(ctx: Any, arguments: Json) -> Json:
    """Ask the client for a sample and repeat it."""
    prompt = types.SamplingMessage(role="user", content=types.TextContent(type="text", text=arguments["prompt"]))
    reply = await ctx.session.create_message([prompt], max_tokens=100, related_request_id=ctx.request_id)
    return text(f"LLM response: {reply.content.text}")


def elicitation(properties: Json, required: list[str]) -> Tool:
    """Make a tool that asks the user for `properties` and tells the outcome."""
    schema = {"type": "object", "properties": properties, "required": required}

    async def ask(ctx: Any, arguments: Json) -> Json:
        message = arguments.get("message", "Please fill in")
        reply = await ctx.session.elicit_form(message, schema, related_request_id=ctx.request_id)
        return text(f"Elicitation completed: action={reply.action}, content={json.dumps(reply.content)}")

    return ask


async def reconnection(ctx: Any, arguments: Json) -> Json:
    """Close the call's stream before the result is there; the result is for whoever resumes."""
    if ctx.close_sse_stream is not None:
        await ctx.close_sse_stream()
    await asyncio.sleep(0.1)
    return text("resumed")


def demanding(requests: Json, answer: Callable[[Json], str], **asking: str) -> Tool:
    """Make a tool that first asks for `requests` in its result (2026-07-28), then answers from them."""

    async def run(ctx: Any, arguments: Json) -> Json:
        given = (ctx.params or {}).get("inputResponses") or {}
        if not all(isinstance(given.get(key), dict) and _is_filled(given[key]) for key in requests):
            return {"resultType": "input_required", "inputRequests": requests, **asking}
        return text(answer(given))

    return run


def _is_filled(response: Json) -> bool:
    return bool(set(response) & {"content", "roots"})


def form(message: str, field: str, kind: str = "string") -> Json:
    """Make an elicitation request for one field."""
    schema = {"type": "object", "properties": {field: {"type": kind}}, "required": [field]}
    return {"method": "elicitation/create", "params": {"message": message, "requestedSchema": schema}}


SAMPLE = {
    "method": "sampling/createMessage",
    "params": {
        "messages": [{"role": "user", "content": {"type": "text", "text": "What is the capital of France?"}}],
        "maxTokens": 100,
    },
}
ROOTS = {"method": "roots/list", "params": {}}


async def with_state(ctx: Any, arguments: Json) -> Json:
    """Ask for a confirmation, handing out a state token that has to come back as it was."""
    params = ctx.params or {}
    state = params.get("requestState")
    if state is None:
        asked = {"confirm": form("Please confirm", "ok", "boolean")}
        return {"resultType": "input_required", "inputRequests": asked, "requestState": TOKENS["confirm"]}
    if STATES.get(state) != "confirm":
        raise MCPError(INVALID_PARAMS, "requestState was not issued by this server")
    return text("state-ok")


async def multi_round(ctx: Any, arguments: Json) -> Json:
    """Ask twice, each round known by the state token of the one before."""
    state = (ctx.params or {}).get("requestState")
    if state is not None and state not in STATES:
        raise MCPError(INVALID_PARAMS, "requestState was not issued by this server")
    if state is None:
        asked, token = {"step1": form("Step 1: What is your name?", "name")}, "round-1"
    elif STATES[state] == "round-1":
        asked, token = {"step2": form("Step 2: What is your favorite color?", "color")}, "round-2"
    else:
        return text("both rounds done")
    return {"resultType": "input_required", "inputRequests": asked, "requestState": TOKENS[token]}


async def by_capability(ctx: Any, arguments: Json) -> Json:
    """Ask only for what the client said it can do."""
    declared = ctx.session.client_capabilities
    asked: Json = {}
    if declared is not None and declared.sampling is not None:
        asked["sample"] = SAMPLE
    if declared is not None and declared.elicitation is not None:
        asked["name"] = form("What is your name?", "name")
    return {"resultType": "input_required", "inputRequests": asked} if asked else text("nothing to ask")


async def missing_capability(ctx: Any, arguments: Json) -> Json:
    """Refuse a client that did not declare sampling."""
    declared = ctx.session.client_capabilities
    if declared is None or declared.sampling is None:
        raise MCPError(MISSING_CAPABILITY, "sampling is required", {"requiredCapabilities": {"sampling": {}}})
    return text("sampling declared")


NOTHING: Json = {"type": "object", "properties": {}}
ADDRESS_SCHEMA: Json = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def taking(*names: str, **extra: Json) -> Json:
    """Make an input schema of required string arguments, each with the extra keywords given for it."""
    properties = {name: {"type": "string", **extra.get(name, {})} for name in names}
    return {"type": "object", "properties": properties, "required": list(names)}


async def publish(ctx: Any, arguments: Json) -> Json:
    """Tell every subscription stream that the tools and the prompts changed."""
    await BUS.publish(ToolsListChanged())
    await BUS.publish(PromptsListChanged())
    return text("told")


def tool_name(suffix: str) -> str:
    """Name one of the tools that answer with an input request."""
    return f"test_input_required_result_{suffix}"


BUS = InMemorySubscriptionBus()
STRINGS = {"username": {"type": "string"}, "email": {"type": "string"}}
MIXED = embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}')
NAME = form("What is your name?", "name")
TOOLS: dict[str, tuple[Json, Tool]] = {
    "test_simple_text": (NOTHING, fixed(text("This is a simple text response for testing."))),
    "test_image_content": (NOTHING, fixed({"content": [PNG]})),
    "test_audio_content": (
        NOTHING,
        fixed({"content": [{"type": "audio", "data": SILENT_WAV, "mimeType": "audio/wav"}]}),
    ),
    "test_embedded_resource": (
        NOTHING,
        fixed(
            {"content": [embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")]}
        ),
    ),
    "test_multiple_content_types": (
        NOTHING,
        fixed({"content": [*text("Multiple content types test:")["content"], PNG, MIXED]}),
    ),
    "test_error_handling": (
        NOTHING,
        fixed({**text("This tool intentionally returns an error for testing"), "isError": True}),
    ),
    "test_tool_with_logging": (NOTHING, with_logging),
    "test_logging_tool": (NOTHING, with_logging),
    "test_tool_with_progress": (NOTHING, with_progress),
    "test_sampling": (taking("prompt"), sampling),
    "test_elicitation": (taking("message"), elicitation(STRINGS, ["username", "email"])),
    "test_elicitation_sep1034_defaults": (NOTHING, elicitation(ELICITED["defaults"], [])),
    "test_elicitation_sep1330_enums": (NOTHING, elicitation(ELICITED["enums"], [])),
    "test_reconnection": (NOTHING, reconnection),
    "test_trigger_tool_change": (NOTHING, publish),
    "test_trigger_prompt_change": (NOTHING, publish),
    "json_schema_2020_12_tool": (ADDRESS_SCHEMA, fixed(text("accepted"))),
    "test_missing_capability": (NOTHING, missing_capability),
    "test_x_mcp_header": (taking("region", region={"x-mcp-header": "Region"}), fixed(text("headers agreed"))),
    tool_name("elicitation"): (
        NOTHING,
        demanding({"user_name": NAME}, lambda given: f"Hello, {_name(given)}!"),
    ),
    "test_streaming_elicitation": (NOTHING, demanding({"user_name": NAME}, lambda given: "streamed")),
    tool_name("sampling"): (NOTHING, demanding({"capital_question": SAMPLE}, lambda given: "sampled")),
    tool_name("list_roots"): (NOTHING, demanding({"client_roots": ROOTS}, lambda given: "rooted")),
    tool_name("multiple_inputs"): (
        NOTHING,
        demanding(
            {"user_name": NAME, "greeting": SAMPLE, "client_roots": ROOTS},
            lambda given: "all given",
            requestState=TOKENS["guarded"],
        ),
    ),
    tool_name("request_state"): (NOTHING, with_state),
    tool_name("tampered_state"): (NOTHING, with_state),
    tool_name("multi_round"): (NOTHING, multi_round),
    tool_name("capabilities"): (NOTHING, by_capability),
}


def _name(given: Json) -> str:
    return str(given["user_name"]["content"].get("name"))


def prompt(*content: Json) -> Json:
    """Make a prompt result of user messages."""
    return {"messages": [{"role": "user", "content": block} for block in content]}


def said(value: str) -> Json:
    """Make one text block."""
    return {"type": "text", "text": value}


PROMPTS: dict[str, tuple[tuple[str, ...], Callable[[Json], Json]]] = {
    "test_simple_prompt": ((), lambda given: prompt(said("This is a simple prompt for testing."))),
    "test_prompt_with_arguments": (
        ("arg1", "arg2"),
        lambda given: prompt(said(f"Prompt with arguments: arg1='{given['arg1']}', arg2='{given['arg2']}'")),
    ),
    "test_prompt_with_embedded_resource": (
        ("resourceUri",),
        lambda given: prompt(
            embedded(given["resourceUri"], "text/plain", "Embedded resource content for testing."),
            said("Please process the embedded resource above."),
        ),
    ),
    "test_prompt_with_image": ((), lambda given: prompt(PNG, said("Please analyze the image above."))),
    "test_input_required_result_prompt": ((), lambda given: prompt(said("with the context given"))),
}
