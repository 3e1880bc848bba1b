"""Paths and their methods: a trailing slash makes no other path, HEAD is GET without its body."""

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from safereason.guard.server.refusal import Refusal

GET, POST = ("GET", "HEAD", "OPTIONS"), ("POST", "OPTIONS")
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
OPEN = ("/healthz", "/readyz")
"""Paths that need no key, so that whatever starts the server can watch it."""


class Paths:
    """Gives an app each path in one spelling."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, without the slash at its path's end, and HEAD as GET."""
        if scope["type"] == "http":
            path = scope["path"].removesuffix("/") or "/"
            # The server itself sends no body after HEAD: it looks at its own scope.
            scope = {**scope, "path": path, "method": "GET" if scope["method"] == "HEAD" else scope["method"]}
        await self.app(scope, receive, send)


def methods_of(path: str) -> tuple[str, ...]:
    """The methods of a path; none where there is no such path."""
    return GET if path.startswith(f"{MODELS}/") else METHODS.get(path, ())


def answered_here(method: str, path: str) -> Response | None:
    """The answer to OPTIONS, and to a method that a path does not have; None where an endpoint answers."""
    there = methods_of(path)
    if not there or (method in there and method != "OPTIONS"):
        return None
    allow = {"Allow": ", ".join(there)}
    if method == "OPTIONS":
        return Response(status_code=204, headers=allow)
    return Refusal(405, "method_not_allowed", f"{path} takes {', '.join(there)}", headers=allow).response()
