"""From the bytes of a request to a question, off the event loop, so that a large body holds up nobody else."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from safereason.guard.server.refusal import Refusal, invalid_value

Body = TypeVar("Body", bound=BaseModel)
Asked = TypeVar("Asked")

FORM = "application/x-www-form-urlencoded"
"""What `curl -d` calls any body."""


async def read(request: Request, model: type[Body], ask: Callable[[Body], Asked]) -> tuple[Body, Asked]:
    """The body of a request, and what it asks.

    Args:
        request: Its body is JSON.
        model: What the body is to be.
        ask: What it asks, or the refusal; called in a thread of its own.

    Raises:
        Refusal: The body is something else, or `ask` refuses it.
    """
    _check_media_type(request.headers)
    try:
        content = await request.body()
    except ClientDisconnect:  # nobody reads the answer
        raise Refusal(400, "disconnected", "the caller went away before the end of the body") from None
    return await asyncio.to_thread(_read, content, model, ask)


def _read(content: bytes, model: type[Body], ask: Callable[[Body], Asked]) -> tuple[Body, Asked]:
    try:
        document = json.loads(content, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        said = str(error) if isinstance(error, _NoNumber) else "the body is not JSON"
        raise Refusal(400, "invalid_json", said) from None
    try:
        body = model.model_validate(document)
    except ValidationError as error:
        raise invalid_value(error) from None
    return body, ask(body)


def _check_media_type(headers: Headers) -> None:
    """Takes JSON, and from programs also what does not say that it is.

    A web page may send such a body anywhere without the browser's asking first, which would let it use this server;
    the browser then says where the page is from.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    main, _, sub = kind.partition("/")
    if main == "application" and (sub == "json" or sub.endswith("+json")):
        return
    if kind not in ("", FORM) or "origin" in headers or "sec-fetch-site" in headers:
        raise Refusal(415, "unsupported_media_type", "send the header `Content-Type: application/json`")


class _NoNumber(ValueError):
    """The body holds what Python writes for a number, and JSON does not have."""


def _no_number(name: str) -> NoReturn:
    raise _NoNumber(f"the body is not JSON: {name} is none of its numbers")


def taken(model: type[BaseModel]) -> dict[str, Any]:
    """What /openapi.json says of a request with this body."""
    schema = {"$ref": REFERENCE.format(model=model.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


REFERENCE = "#/components/schemas/{model}"
"""Where /openapi.json keeps the shape of a body."""
