"""``aasvc serve``."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from aasvc_cli.cli import completion
from aasvc_cli.cli.options import DeviceOption, ModelOption, machine_option, model_option
from aasvc_cli.cli.output import home_folder, say, show
from aasvc_cli.errors import MissingExtraError

VocoderOption = Annotated[
    str | None,
    model_option(
        "--vocoder",
        metavar="NAME_OR_FOLDER",
        help="A vocoder in place of the one that goes with the model.",
        show_default="the one that goes with the model",
        autocompletion=completion.vocoders,
    ),
]
HostOption = Annotated[
    str | None,
    machine_option(
        "--host",
        metavar="ADDRESS",
        help="Let other machines in at this address, with a token that is shown once; browsers give a page from "
        "another machine the microphone only through HTTPS.",
        show_default="127.0.0.1, this machine alone",
    ),
]
PortOption = Annotated[int, machine_option("--port", min=0, max=65535, help="0 takes a free one.")]
BrowserOption = Annotated[bool, machine_option("--browser/--no-browser", help="Open the page in the browser.")]


def serve(
    model: ModelOption = None,
    vocoder: VocoderOption = None,
    host: HostOption = None,
    port: PortOption = 0,
    browser: BrowserOption = True,
    device: DeviceOption = None,
) -> None:
    """Convert, record and listen in a browser.

    Example: [bold]aasvc serve[/bold]

    Programs POST recordings to /v1/convert at the same address; /openapi.json describes it.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as for `aasvc convert`
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise MissingExtraError("aasvc serve needs a web server; install it: pip install 'aasvc[serve]'") from None
    from aasvc_cli.serve import app, server
    from aasvc_cli.serve.voices import Voices

    voices = Voices(home_folder(), model=model, vocoder=vocoder, device=device or "auto")
    voices.folder(None)
    listening, address = server.listen(host, port)

    def on_ready() -> None:
        show(address.url)
        say("open this address in a browser; Ctrl-C ends it")
        if browser:
            typer.launch(address.url)

    server.serve(app.build(voices, address.policy), listening, on_ready)
