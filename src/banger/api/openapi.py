"""The contract as an OpenAPI 3.1 document, generated from the route table."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from .. import __version__
from ..model.records import VMEvent
from .routes import ROUTES, Route
from .types import API_VERSION, ErrorBody, Event, Operation

_REF = "#/components/schemas/{name}"
_JSON = "application/json"
_NDJSON = "application/x-ndjson"


def document() -> dict[str, Any]:
    """The OpenAPI document of every route in the table."""
    kinds = list(dict.fromkeys([*(route.reply for route in ROUTES), *(route.request for route in ROUTES if route.request), ErrorBody, Event, Operation]))
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    schema_of = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schema_of)
    failure = {"type": "object", "properties": {"error": schema_of[ErrorBody]}, "required": ["error"]}
    return {
        "openapi": "3.1.0",
        "info": {"title": "banger", "version": f"{API_VERSION}", "summary": "microVMs on this host", "x-program-version": __version__},
        "servers": [{"url": "http://localhost", "description": "the daemon's unix socket"}],
        "paths": paths,
        "components": {"schemas": {**components, "Failure": failure}},
    }


def _operation(route: Route, schema_of: dict[Any, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {"operationId": route.name, "summary": route.summary, "tags": [route.name.partition(".")[0]]}
    if parameters := _parameters(route):
        described["parameters"] = parameters
    if route.request is not None:
        required = any(field.required for field in msgspec.structs.fields(route.request))
        described["requestBody"] = {"required": required, "content": {_JSON: {"schema": schema_of[route.request]}}}
    described["responses"] = {**_success(route, schema_of), "default": _failure()}
    return described


def _parameters(route: Route) -> list[dict[str, Any]]:
    text = {"type": "string"}
    in_path = [{"name": name, "in": "path", "required": True, "schema": text} for name in re.findall(r"\{(\w+)\}", route.path)]
    in_query: list[dict[str, Any]] = [{"name": name, "in": "query", "required": False, "schema": text} for name in route.query]
    if route.kind == "operation":
        in_query.append({"name": "wait", "in": "query", "required": False, "allowEmptyValue": True, "schema": text, "description": "stream events"})
    return in_path + in_query


def _success(route: Route, schema_of: dict[Any, Any]) -> dict[str, Any]:
    if route.kind == "operation":
        content = {_NDJSON: {"schema": schema_of[Event]}}
        streamed = {"description": "with wait: events, the last one carries the result", "content": content, "x-result": schema_of[route.reply]}
        location = {"Location": {"schema": {"type": "string"}, "description": "address of the operation"}}
        return {"200": streamed, "202": {"description": "under way", "headers": location, "content": {_JSON: {"schema": schema_of[Operation]}}}}
    media = _NDJSON if route.reply in (Event, VMEvent) else _JSON
    return {"200": {"description": route.summary, "content": {media: {"schema": schema_of[route.reply]}}}}


def _failure() -> dict[str, Any]:
    return {"description": "what happened and what to do", "content": {_JSON: {"schema": {"$ref": _REF.format(name="Failure")}}}}
