"""Request bodies, parsed in a thread of their own, so that a large body delays no other request."""

import asyncio
import json
from collections.abc import Callable
from typing import NoReturn, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from safereason.guard.server.refusal import RequestRefused, invalid_value

BodyT = TypeVar("BodyT", bound=BaseModel)
ParsedT = TypeVar("ParsedT")

FORM = "application/x-www-form-urlencoded"
"""Media type that `curl -d` sends with any body."""
REFERENCE = "#/components/schemas/{model}"
"""Place of a body's schema in /openapi.json."""


async def read_request(
    request: Request, model: type[BodyT], parse: Callable[[BodyT], ParsedT]
) -> tuple[BodyT, ParsedT]:
    """The body of a request, and the questions in it.

    Args:
        request: A request with a JSON body.
        model: Schema of the body.
        parse: Makes questions from a valid body, or raises a refusal. It runs in the thread too.

    Raises:
        Refusal: The body does not fit the schema, or `parse` refuses it.
    """
    _check_media_type(request.headers)
    try:
        # The gate has bounded its size and its time.
        content = await request.body()
    except ClientDisconnect:  # nobody reads the answer
        raise RequestRefused(400, "disconnected", "the caller went away before the end of the body") from None
    return await asyncio.to_thread(_parse_content, content, model, parse)


def _parse_content(content: bytes, model: type[BodyT], parse: Callable[[BodyT], ParsedT]) -> tuple[BodyT, ParsedT]:
    try:
        # NaN and the infinities would pass Python's reader and fail in another program.
        document = json.loads(content, parse_constant=_refuse_non_json)
    except _NonJSONNumber as error:
        raise RequestRefused(400, "invalid_json", str(error)) from None
    except (ValueError, RecursionError):
        raise RequestRefused(400, "invalid_json", "the body is not JSON") from None
    try:
        body = model.model_validate(document)
    except ValidationError as error:
        raise invalid_value(error) from None
    return body, parse(body)


def _check_media_type(headers: Headers) -> None:
    """Accepts JSON, and from programs also bodies without a media type or with that of `curl -d`.

    A browser lets any web page send bodies of the latter two kinds anywhere, without asking the server first. A page
    could use this server in that way. The browser then adds headers that say where the page is from.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    main, _, sub = kind.partition("/")
    if main == "application" and (sub == "json" or sub.endswith("+json")):
        return
    if kind not in ("", FORM) or "origin" in headers or "sec-fetch-site" in headers:
        raise RequestRefused(415, "unsupported_media_type", "send the header `Content-Type: application/json`")


class _NonJSONNumber(ValueError):
    """A number that Python's reader accepts and JSON does not have, such as NaN."""


def _refuse_non_json(name: str) -> NoReturn:
    raise _NonJSONNumber(f"the body is not JSON: {name} is none of its numbers")


def body_schema(model: type[BaseModel]) -> dict[str, object]:
    """The entry in /openapi.json for a request with this body."""
    schema = {"$ref": REFERENCE.format(model=model.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
