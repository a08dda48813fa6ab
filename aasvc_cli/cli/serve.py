"""``aasvc serve``."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from aasvc_cli.cli import completion
from aasvc_cli.cli.options import DeviceOption, ModelOption, data_option, machine_option, model_option, output_option
from aasvc_cli.cli.output import home_folder, say, show, usage
from aasvc_cli.errors import MissingExtraError


class QuestionChoice(StrEnum):
    """What a listening test asks."""

    PREFERENCE = "preference"
    MOS = "mos"


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
        help="Serve other machines at this address, with a token that is shown once; there, browsers allow the "
        "microphone only over HTTPS.",
        show_default="127.0.0.1, this machine alone",
    ),
]
PortOption = Annotated[int, machine_option("--port", min=0, max=65535, help="0 takes a free one.")]
BrowserOption = Annotated[bool, machine_option("--browser/--no-browser", help="Open the page in the browser.")]

RecordOption = Annotated[
    Path | None, data_option("--record", metavar="DIR", help="Record sentences into this folder, for `aasvc prepare`.")
]
SentencesOption = Annotated[
    Path | None,
    data_option(
        "--sentences", metavar="FILE", help="What to read: a sentence a line, with or without an id before it."
    ),
]
TargetOption = Annotated[
    Path | None, data_option("--target", metavar="DIR", help="The target's recordings; their texts are what to read.")
]
ListenOption = Annotated[
    list[Path] | None,
    data_option("--listen", metavar="DIR", help="A folder to compare in a blind test; to be given twice or more."),
]
QuestionOption = Annotated[
    QuestionChoice,
    data_option("--question", help="Which recording is better, or how natural each one sounds (1 to 5)."),
]
AnswersOption = Annotated[Path, output_option("--answers", metavar="FILE", help="Where the answers go, as CSV.")]
SeedOption = Annotated[int, data_option("--seed", min=0, help="Another number gives another order of questions.")]


def serve(
    model: ModelOption = None,
    vocoder: VocoderOption = None,
    record: RecordOption = None,
    sentences: SentencesOption = None,
    target: TargetOption = None,
    listen: ListenOption = None,
    question: QuestionOption = QuestionChoice.PREFERENCE,
    seed: SeedOption = 1,
    answers: AnswersOption = Path("listening.csv"),
    host: HostOption = None,
    port: PortOption = 0,
    browser: BrowserOption = True,
    device: DeviceOption = None,
) -> None:
    """Convert, record and listen in a browser.

    Example: [bold]aasvc serve[/bold]

    Read a target's sentences yourself: [bold]aasvc serve --record mine --target recordings[/bold]

    A blind test of two systems: [bold]aasvc serve --listen first --listen second[/bold]

    Programs POST recordings to /v1/convert at the same address; /openapi.json describes it.
    """
    if record is None and (sentences is not None or target is not None):
        usage("serve", "--sentences and --target go with --record")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as for `aasvc convert`
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise MissingExtraError("aasvc serve needs a web server; install it: pip install 'aasvc[serve]'") from None
    from aasvc_cli.serve import app, server
    from aasvc_cli.serve.listen import BlindTest
    from aasvc_cli.serve.recording import Session
    from aasvc_cli.serve.voices import Voices

    voices = Voices(home_folder(), model=model, vocoder=vocoder, device=device or "auto")
    voices.folder(None)
    session = Session.plan(record, sentences, target) if record is not None else None
    test = BlindTest.of(listen, question.value, seed, answers) if listen else None
    listening, address = server.listen(host, port)

    url = address.url("record" if session else "listen" if test else "")

    def on_ready() -> None:
        show(url)
        say("open this address in a browser; Ctrl-C ends it")
        if browser:
            typer.launch(url)

    server.serve(app.build(voices, address.policy, session, test), listening, on_ready)
