"""The application: pages, interface and guard put together."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware import Middleware

from aasvc_cli.serve import api, pages
from aasvc_cli.serve.guard import Guard, Policy
from aasvc_cli.serve.refusals import HANDLERS
from aasvc_cli.serve.voices import Voices


def build(voices: Voices, policy: Policy) -> Starlette:
    """Everything that is served."""
    app = Starlette(
        routes=[*api.routes(voices), *pages.routes(voices)],
        middleware=[Middleware(Guard, policy=policy)],
        exception_handlers=HANDLERS,
    )
    app.router.redirect_slashes = False  # what there is has one name
    return app
