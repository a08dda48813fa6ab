"""The application: pages, interface and guard put together."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware import Middleware

from aasvc_cli.serve import api, listen, pages, record
from aasvc_cli.serve.guard import Guard, Policy
from aasvc_cli.serve.recording import Session
from aasvc_cli.serve.refusals import HANDLERS
from aasvc_cli.serve.voices import Voices


def build(
    voices: Voices, policy: Policy, session: Session | None = None, test: listen.BlindTest | None = None
) -> Starlette:
    """Everything that is served; ``session`` is what there is to record, ``test`` what to judge."""
    app = Starlette(
        routes=[*api.routes(voices), *pages.routes(voices), *record.routes(session), *listen.routes(test)],
        middleware=[Middleware(Guard, policy=policy)],
        exception_handlers=HANDLERS,
    )
    app.router.redirect_slashes = False  # what there is has one name
    return app
