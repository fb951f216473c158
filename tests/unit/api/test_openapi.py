from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from banger.api.codec import encode
from banger.api.openapi import document
from banger.api.routes import ROUTES, Route

DOCUMENT: dict[str, Any] = json.loads(encode(document()))


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for part in value.values():
            yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)


def test_the_frame_is_openapi() -> None:
    assert DOCUMENT["openapi"] == "3.1.0" and DOCUMENT["info"]["title"] and DOCUMENT["info"]["version"]
    assert set(DOCUMENT) <= {"openapi", "info", "servers", "paths", "components"}


def test_it_has_every_route_and_nothing_else() -> None:
    described = {(method.upper(), path): one["operationId"] for path, methods in DOCUMENT["paths"].items() for method, one in methods.items()}
    assert described == {(route.method, route.path): route.name for route in ROUTES}
    assert len(described) == len(ROUTES) == len({route.name for route in ROUTES})


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_each_call_is_described_completely(route: Route) -> None:
    described = DOCUMENT["paths"][route.path][route.method.lower()]
    assert described["summary"] and described["responses"]["default"]
    parameters = {(one["in"], one["name"]): one for one in described.get("parameters", [])}
    in_path = {name for place, name in parameters if place == "path"}
    assert in_path == set(re.findall(r"\{(\w+)\}", route.path)) and all(parameters["path", name]["required"] for name in in_path)
    assert ("requestBody" in described) == (route.request is not None)
    assert ({"200", "202"} <= set(described["responses"])) == (route.kind == "operation")
    assert (("query", "wait") in parameters) == (route.kind == "operation")


def test_all_references_lead_somewhere_and_no_schema_is_unused() -> None:
    named = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert set(references(DOCUMENT)) == named


def test_requests_refuse_unknown_fields_and_say_so() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for route in ROUTES:
        if route.request is not None:
            assert schemas[route.request.__name__]["additionalProperties"] is False
    assert schemas["PullImage"]["required"] == ["reference"]
