"""Error answers: one shape for all of them, with a code for programs."""

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from safereason.guard.server.schema import ErrorBody, ErrorDetail, ErrorType


class RequestRefused(HTTPException):
    """An exception that ends a request with an error answer."""

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
        """Answer to the caller, in the form of OpenAI's errors."""
        detail = ErrorDetail(message=self.detail, type=self._type(), param=self.param, code=self.code)
        return JSONResponse(ErrorBody(error=detail).model_dump(), self.status_code, self.headers)

    def _type(self) -> ErrorType:
        # OpenAI's names. Their clients decide by them, and by the status, whether to retry.
        if self.status_code == HTTPStatus.TOO_MANY_REQUESTS:
            return "rate_limit_error"
        if self.status_code < 500:
            return "invalid_request_error"
        return "server_error"


def invalid(param: str, what: str, *, code: str = "invalid_request") -> RequestRefused:
    """The refusal of a request with an invalid value.

    Args:
        param: Name of the value.
        what: What is wrong with it.
        code: Code for programs.
    """
    return RequestRefused(422, code, f"{param}: {what}", param=param)


def invalid_value(error: ValidationError) -> RequestRefused:
    """The refusal of a body for its first mistake. It does not repeat what the caller sent."""
    first = error.errors(include_url=False, include_input=False)[0]
    param = ".".join(map(str, first["loc"]))
    if not param:
        return RequestRefused(422, "invalid_request", "the body: a JSON object is expected")
    what = first["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    return invalid(param, what)


def add_handlers(app: FastAPI) -> None:
    """Makes an app answer every error in the one shape."""
    app.add_exception_handler(HTTPException, _answer_refusal)
    app.add_exception_handler(Exception, _answer_failure)


async def _answer_refusal(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, RequestRefused):
        return error.response()
    assert isinstance(error, HTTPException)  # the handler is registered for these alone
    # The framework raises its own for an unknown path.
    status = HTTPStatus(error.status_code)
    code = status.phrase.lower().replace(" ", "_")
    return RequestRefused(status, code, str(error.detail), headers=error.headers).response()


async def _answer_failure(request: Request, error: Exception) -> JSONResponse:
    return RequestRefused(500, "internal_error", "the server failed; its log says more").response()
