"""What a request gets that cannot be served: a status and one sentence, as JSON."""

from __future__ import annotations

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from aasvc_cli.errors import AasvcError, DataError, MissingExtraError, ModelError, StorageError

STATUS: tuple[tuple[type[AasvcError], int], ...] = (
    (DataError, 422),
    (ModelError, 422),
    (StorageError, 507),
    (MissingExtraError, 501),
)
"""Of our errors; of the others it is 500."""


class Refusal(Exception):
    """A request that is not served.

    Attributes:
        kind: one word for programs
        headers: of the response
    """

    def __init__(self, status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> None:
        self.status, self.kind, self.headers = status, kind, headers or {}
        super().__init__(message)

    def response(self) -> Response:
        """What the client gets."""
        return JSONResponse(
            {"error": {"kind": self.kind, "message": str(self)}}, status_code=self.status, headers=self.headers
        )


async def refuse(_request: Request, error: Exception) -> Response:
    """The response to a :class:`Refusal`."""
    assert isinstance(error, Refusal)
    return error.response()


async def refuse_error(_request: Request, error: Exception) -> Response:
    """One of our errors, with the text of the command line."""
    status = next((status for kind, status in STATUS if isinstance(error, kind)), 500)
    return Refusal(status, type(error).__name__, str(error)).response()


async def refuse_unknown(request: Request, _error: Exception) -> Response:
    """There is nothing of that name."""
    return Refusal(
        404, "not_found", f"{request.url.path:.100}: no such page; /openapi.json lists what there is"
    ).response()


async def refuse_method(request: Request, error: Exception) -> Response:
    """There is something of that name, but not for this method."""
    allowed = dict(getattr(error, "headers", None) or {})
    expected = allowed.get("Allow", allowed.get("allow", "another method"))
    message = f"{request.method:.20} {request.url.path:.100}: expected {expected}"
    return Refusal(405, "method", message, allowed).response()


async def gone(_request: Request, _error: Exception) -> Response:
    """The client has left, and nobody reads this."""
    return Response(status_code=499)


HANDLERS = {
    Refusal: refuse,
    AasvcError: refuse_error,
    ClientDisconnect: gone,
    404: refuse_unknown,
    405: refuse_method,
}
"""For Starlette, by error or status."""
