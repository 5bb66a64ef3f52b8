"""`/openapi.json`: all that is served, described by OpenAPI 3.1 from the routes and what their handlers declare.

Paths and methods are the application's own; a route whose handler declares nothing makes the description fail, but
for pages that people look at. Nothing of it depends on the settings.

https://spec.openapis.org/oas/v3.1.1.html
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, get_type_hints

import msgspec
from flask import Blueprint, Flask, Response, current_app, request
from werkzeug.routing import Rule

from relay import __version__
from relay.web.declared import JSON, Answer, Operation, declares, operation_of, told

bp = Blueprint("openapi", __name__)
#: Routes that are no API: pages for people.
LEFT_OUT: Final = ("/console", "/favicon.ico")
_REF: Final = "#/components/schemas/{name}"
_REFUSED: Final = 400
_METHODS: Final = ("GET", "PUT", "POST", "DELETE", "PATCH")
_VARIABLE: Final = re.compile(r"<(?:\w+(?:\([^>]*\))?:)?(\w+)>")
#: An application keeps its description under this name.
_KEPT: Final = "rowhook_openapi"
#: For so long a copy may be used without asking again.
_FRESH_S: Final = 300

SCHEMES: Final[Mapping[str, Mapping[str, str]]] = {
    "importKey": {
        "type": "apiKey",
        "in": "query",
        "name": "apikey",
        "description": "An API key of kind `import`, of the client in the path.",
    },
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key of kind `import`; the client is the key's.",
    },
    "exportKey": {
        "type": "apiKey",
        "in": "header",
        "name": "X-RJM-API-Key",
        "description": "An API key of kind `export`.",
    },
    "datamartToken": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "An API key of kind `import`, bare or behind `api:`; its client is the datamart.",
    },
    "fileToken": {
        "type": "apiKey",
        "in": "query",
        "name": "access_token",
        "description": "The same key, where a file is read.",
    },
}
TAGS: Final[Mapping[str, str]] = {
    "Webhooks": "Deliveries of vendors, verified as each of them signs; 202 means durable.",
    "Import API": "Rows that clients push, as RJMetrics (Magento BI) has it. 201 means durable. What is sent to a "
    "host whose name begins with `sandbox-` is treated as what is sent under `/sandbox`.",
    "Stitch": "Rows that clients push, as the Stitch Import API has it. 201 means durable.",
    "Document imports": "Files of commands, as mediarithmics has them.",
    "Export API": "Tables as files, saved queries as figures and charts, as RJMetrics (Magento BI) has it. "
    "Whatever a key lacks, the answer is 403.",
    "Operation": "Whether the relay works.",
}


class Undeclared(Exception):
    """Routes are served that nothing is declared of; the text names them."""


@declares(
    Operation(
        "Operation",
        {
            200: told("The description, in OpenAPI 3.1.", dict[str, Any]),
            304: Answer("It is as it was when it got the `ETag` that `If-None-Match` names."),
        },
    )
)
@bp.get("/openapi.json")
def openapi() -> Response:
    """This description."""
    kept: bytes | None = current_app.extensions.get(_KEPT)
    if kept is None:
        kept = current_app.extensions[_KEPT] = msgspec.json.encode(describe(current_app))
    answer = Response(kept, content_type=JSON)
    answer.cache_control.public, answer.cache_control.max_age = True, _FRESH_S
    answer.add_etag()
    answer.make_conditional(request)
    return answer


def describe(app: Flask) -> dict[str, Any]:
    """All that an application serves.

    Raises:
        Undeclared: a handler declares nothing.
    """
    found = list(_operations(app))
    bare = [f"{method} {rule.rule}" for rule, method, _, operation in found if operation is None]
    if bare:
        raise Undeclared(", ".join(bare))
    writer = _Writer(_shapes_of(view, operation) for _, _, view, operation in found if operation)
    takes = {repr(shape) for *_, one in found if one for shape in one.takes.values()}
    listed = {shape for *_, one in found if one for shape in (one.query, one.headers) if shape}
    lists = {shape.__name__ for shape in listed if repr(shape) not in takes}
    paths: dict[str, dict[str, Any]] = {}
    for rule, method, view, operation in found:
        if operation is not None:
            path = _VARIABLE.sub(r"{\1}", rule.rule)
            paths.setdefault(path, {})[method.lower()] = writer.operation(path, method, view, operation)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "rowhook",
            "version": __version__,
            "summary": "A webhook relay that turns SaaS webhooks into correct, typed rows.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": {n: c for n, c in writer.components.items() if n not in lists},
            "responses": dict(sorted(writer.responses.items())),
            "securitySchemes": SCHEMES,
        },
    }


_View = Callable[..., Any]


def _operations(app: Flask) -> Iterator[tuple[Rule, str, _View, Operation | None]]:
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        if rule.rule.startswith(LEFT_OUT):
            continue
        view = app.view_functions[rule.endpoint]
        for method in _METHODS:  # HEAD and OPTIONS are Flask's own
            if method in (rule.methods or ()):
                yield rule, method, view, operation_of(view)


def _shapes_of(view: _View, operation: Operation) -> Iterator[Any]:
    """All shapes of an operation."""
    yield from _variables(view).values()
    yield from filter(None, (operation.query, operation.headers))
    yield from operation.takes.values()
    for answer in operation.answers.values():
        yield from answer.kinds.values()


def _variables(view: _View) -> dict[str, Any]:
    """Variables of a path, as the handler's annotations have them."""
    hints = get_type_hints(view, include_extras=True)
    return {name: hints[name] for name in inspect.signature(view).parameters}


class _Writer:
    """Writes operations with the schemas of their shapes.

    Args:
        shapes: of each operation.
    """

    def __init__(self, shapes: Iterable[Iterable[Any]]) -> None:
        every = {repr(shape): shape for of_one in shapes for shape in of_one}
        schemas, components = msgspec.json.schema_components(every.values(), ref_template=_REF)
        self._schemas = dict(zip(every, schemas, strict=True))
        self.components = {name: components[name] for name in sorted(components)}
        self.responses: dict[str, dict[str, Any]] = {}

    def operation(self, path: str, method: str, view: _View, operation: Operation) -> dict[str, Any]:
        summary, _, more = inspect.cleandoc(view.__doc__ or "").partition("\n\n")
        described: dict[str, Any] = {
            "operationId": "_".join([method.lower(), *re.findall(r"\w+", path)]),
            "tags": [operation.tag],
            "summary": " ".join(summary.split()),
        }
        if more:
            described["description"] = " ".join(more.split())
        parameters = [
            *self._in_path(path, view), *self._named("query", operation.query),
            *self._named("header", operation.headers),
        ]  # fmt: skip
        if parameters:
            described["parameters"] = parameters
        if operation.takes and method != "GET":
            described["requestBody"] = {
                "required": operation.needs_body,
                "content": self._content(operation.takes),
            }
        described["responses"] = {str(s): self._shared(s, operation.answers[s]) for s in sorted(operation.answers)}
        described["security"] = [{operation.opened_by: []}] if operation.opened_by else []
        return described

    def _in_path(self, path: str, view: _View) -> Iterator[dict[str, Any]]:
        hints = _variables(view)
        for name in re.findall(r"{(\w+)}", path):
            yield _parameter("path", name, dict(self._schemas[repr(hints[name])]), required=True)

    def _named(self, where: str, shape: Any) -> Iterator[dict[str, Any]]:
        if shape is None:
            return
        found = self.components[shape.__name__]
        for name, schema in found["properties"].items():
            yield _parameter(where, name, dict(schema), required=name in found["required"])

    def _shared(self, status: int, answer: Answer) -> dict[str, Any]:
        """An answer, written out once where many operations have the same refusal."""
        told, shape = self._answer(answer), answer.kinds.get(JSON)
        name = f"{getattr(shape, '__name__', '')}{status}"
        if status < _REFUSED or self.responses.setdefault(name, told) != told:
            return told
        return {"$ref": f"#/components/responses/{name}"}

    def _answer(self, answer: Answer) -> dict[str, Any]:
        told: dict[str, Any] = {"description": answer.why}
        if answer.headers:
            told["headers"] = {
                name: {"description": text, "required": True, "schema": {"type": "string"}}
                for name, text in answer.headers.items()
            }
        if answer.kinds:
            told["content"] = self._content(answer.kinds)
        return told

    def _content(self, kinds: Mapping[str, Any]) -> dict[str, Any]:
        return {kind: {"schema": _plain(self._schemas[repr(shape)])} for kind, shape in kinds.items()}


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of a body; bytes are sent as they are, for which OpenAPI 3.1 has the empty schema."""
    return {} if schema.get("contentEncoding") == "base64" else schema


def _parameter(where: str, name: str, schema: dict[str, Any], *, required: bool) -> dict[str, Any]:
    described = {"name": name, "in": where, "required": required}
    text = schema.pop("description", "")
    if text:
        described["description"] = text
    return {**described, "schema": schema}
