"""Paths of the server and their methods. A trailing slash is ignored, and HEAD is GET without the body."""

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from safereason.guard.server.refusal import RequestRefused

GET = ("GET", "HEAD", "OPTIONS")
POST = ("POST", "OPTIONS")
MODELS = "/v1/models"
METHODS = {
    "/v1/moderations": POST,
    "/v1/guard": POST,
    MODELS: GET,
    "/healthz": GET,
    "/readyz": GET,
    "/metrics": GET,
    "/openapi.json": GET,
}
"""Methods by path."""
WITHOUT_KEY = ("/healthz", "/readyz")
"""Paths that need no key, so that a supervisor of the server can watch it."""


class Paths:
    """Middleware that gives an app one spelling of each path, and GET for HEAD."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, without a slash at the end of its path, and HEAD as GET."""
        if scope["type"] == "http":
            path = scope["path"].removesuffix("/") or "/"
            method = scope["method"]
            # The server itself sends no body after HEAD: it looks at its own scope, which is not changed here.
            if method == "HEAD":
                method = "GET"
            scope = {**scope, "path": path, "method": method}
        await self.app(scope, receive, send)


def methods_of(path: str) -> tuple[str, ...]:
    """The methods of a path; empty for an unknown path."""
    # A model's name may hold slashes, such as `org/name`.
    if path.startswith(f"{MODELS}/"):
        return GET
    return METHODS.get(path, ())


def answer_without_endpoint(method: str, path: str) -> Response | None:
    """The answer to OPTIONS, or to a method that a path does not have; None if an endpoint answers."""
    methods = methods_of(path)
    if not methods or (method in methods and method != "OPTIONS"):
        return None
    allow = {"Allow": ", ".join(methods)}
    if method == "OPTIONS":
        return Response(status_code=204, headers=allow)
    return RequestRefused(405, "method_not_allowed", f"{path} takes {', '.join(methods)}", headers=allow).response()
