"""Answers that are none: one shape for all of them, and a code that a program can tell them apart by."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from safereason.guard.server.schema import ErrorBody, ErrorDetail


class Refusal(HTTPException):
    """Ends a request with an error."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.code = code
        self.param = param

    def response(self) -> JSONResponse:
        """The answer it becomes."""
        kind: Any = "invalid_request_error" if self.status_code < 500 else "server_error"
        if self.status_code == HTTPStatus.TOO_MANY_REQUESTS:
            kind = "rate_limit_error"
        detail = ErrorDetail(message=self.detail, type=kind, param=self.param, code=self.code)
        return JSONResponse(ErrorBody(error=detail).model_dump(), self.status_code, self.headers)


def invalid(param: str, what: str, *, code: str = "invalid_request") -> Refusal:
    """The refusal of a request for what one of its values is."""
    return Refusal(422, code, f"{param}: {what}", param=param)


def invalid_value(error: ValidationError) -> Refusal:
    """The refusal of a body for the first thing that is wrong with it; what was sent is not said back."""
    first = error.errors(include_url=False, include_input=False)[0]
    param = ".".join(str(part) for part in first["loc"]) or None
    what = first["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    if param is None:
        return Refusal(422, "invalid_request", "the body: a JSON object is expected")
    return invalid(param, what)


def add_handlers(app: FastAPI) -> None:
    """Gives whatever goes wrong in an app the one shape."""
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _broken)


async def _refused(request: Request, error: Any) -> JSONResponse:
    if not isinstance(error, Refusal):  # of the framework: no such path
        status = HTTPStatus(error.status_code)
        error = Refusal(status, status.phrase.lower().replace(" ", "_"), str(error.detail), headers=error.headers)
    response: JSONResponse = error.response()
    return response


async def _broken(request: Request, error: Exception) -> JSONResponse:
    return Refusal(500, "internal_error", "the server failed; its log says more").response()
