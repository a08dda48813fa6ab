"""The matrix of what goes wrong: every command with wrong words, wrong files, wrong places.

One row is one mistake. Each must end with exit code 2 (wrong usage) or 1 (everything else), one line on standard error
that names what is wrong, nothing on standard output, no traceback, and not one file or folder more, less or other than
before. What needs a full disk, a killed process or several steps is in test_bad_input.py.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from aasvc_cli.storage.home import Home

DATA = Path(__file__).parent / "assets"
RATE = 16000
Spoil = Callable[["Place"], object]


@dataclass(frozen=True)
class Place:
    """Where a mistake is made.

    Attributes:
        work: the working directory: a.wav, b.wav, the folders source and target with three pairs, and voice
        home: a data folder with the prepared set male_female and the run tiny
    """

    work: Path
    home: Home


@dataclass(frozen=True)
class Mistake:
    """One row: what is typed, what is wrong with the world, and what the line must say."""

    line: str
    says: str
    code: int = 1
    spoil: Spoil | None = None
    variables: dict[str, str] = field(default_factory=dict)


def usage(line: str, says: str, **variables: str) -> Mistake:
    """Wrong words."""
    return Mistake(line, says, code=2, variables=variables)


def write(name: str, content: str | bytes = "this is not it") -> Spoil:
    """Put a file into the working directory."""
    return lambda place: (place.work / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def sound(name: str, samples: np.ndarray, **options: Any) -> Spoil:
    """Put a recording into the working directory."""
    return lambda place: soundfile.write(place.work / name, samples, RATE, **options)


def in_home(name: str, content: str = "this is not it") -> Spoil:
    """Overwrite a file of the data folder."""
    return lambda place: (place.home.root / name).write_text(content)


def without(name: str) -> Spoil:
    """Remove something from the data folder."""

    def remove(place: Place) -> None:
        path = place.home.root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove


PAIRS = "--source source --target target --jobs 1"
CONVERT = "convert a.wav -o out.wav --model tiny"
SCORE = "evaluate --converted source --target target --jobs 1"

MATRIX = [
    # --- the program itself
    usage("trai", "Did you mean 'train'"),
    usage("--nonsense", "--nonsense"),
    usage("--home", "--home"),
    usage("--quiet --verbos stats", "--verbose"),
    Mistake("--home a.wav stats", "nothing is prepared"),
    Mistake("stats", "AASVC_CONFIG=nowhere.yaml: no such file", variables={"AASVC_CONFIG": "nowhere.yaml"}),
    Mistake("stats", "aasvc.yaml: nonsense: unknown key", spoil=write("aasvc.yaml", "nonsense: 1")),
    Mistake("stats", "aasvc.yaml: not valid YAML", spoil=write("aasvc.yaml", "train: [")),
    Mistake("stats", "aasvc.yaml: is not a text file in UTF-8", spoil=write("aasvc.yaml", b"\xff\xfe\x00")),
    Mistake("train --tag new", "options.tga: no such option; did you mean tag?",
            spoil=write("aasvc.yaml", "options: {tga: x}")),
    Mistake(CONVERT, "options.speed in aasvc.yaml", code=2, spoil=write("aasvc.yaml", "options: {speed: fast}")),
    # --- download
    usage("download everything", "demo"),
    usage("download demo more", "more"),
    usage("download --overwrit", "--overwrite"),
    Mistake("--home a.wav download demo", "a.wav"),
    Mistake("download demo --json source", "a folder stands there"),
    # --- prepare
    usage("prepare --jobs 0", "greater than or equal to 1"),
    usage("prepare --jobs many", "--jobs"),
    usage("prepare --seed=-1", "--seed"),
    usage("prepare one two", "two"),
    usage("prepare", "AASVC_JOBS", AASVC_JOBS="some"),
    Mistake("prepare", "say what to prepare"),
    Mistake("prepare nothing", "nothing: no such folder, and no corpus of that name"),
    Mistake("prepare a.wav", "a.wav: is a file"),
    Mistake("prepare empty", "empty", spoil=lambda place: (place.work / "empty").mkdir()),
    Mistake("prepare --source source --target nowhere", "nowhere: no such folder"),
    Mistake("prepare --source ~nobodyofthatname/a --target target", "~nobodyofthatname/a: no such folder"),
    Mistake("prepare --source source --target a.wav", "a.wav: is a file"),
    Mistake("prepare --source source --target source", "same folder"),
    Mistake(f"prepare {PAIRS} --name a/b", "--name a/b"),
    Mistake(f"prepare {PAIRS} --dev 99", "--dev 99"),
    Mistake(f"prepare {PAIRS} --language ja", "--language goes with --asr-model", code=2),
    Mistake(f"prepare {PAIRS} --dev 1.5", "--dev 1.5"),
    Mistake(f"prepare {PAIRS} --eval nowhere.txt", "nowhere.txt"),
    Mistake(f"prepare {PAIRS} --eval a.wav", "a.wav: expected a text file"),
    Mistake(f"prepare {PAIRS} --name male_female", "choose another --name"),
    Mistake(f"prepare {PAIRS} --conf smal", "did you mean small?"),
    Mistake(f"prepare {PAIRS} --src-feat mel --dp-feat mel --extra-target target",
            "is mel; add: --src-feat content_f0 --dp-feat content_f0"),
    Mistake(f"prepare {PAIRS} --src-feat content --dp-feat content --extra-target nowhere", "nowhere: no such folder"),
    Mistake(f"prepare {PAIRS} --conf nowhere.yaml", "presets are content, hificaptain, small, vocoder"),
    Mistake(f"prepare {PAIRS} --conf a.wav", "a.wav"),
    Mistake(f"prepare {PAIRS} --conf my.yaml", "my.yaml: train.bach_size: unknown key; did you mean batch_size?",
            spoil=write("my.yaml", "train: {bach_size: 2}")),
    Mistake(f"prepare {PAIRS} --conf my.yaml", "expected a mapping", spoil=write("my.yaml", "[1]")),
    Mistake(f"prepare {PAIRS} --conf my.yaml", "model.width: 30 is not divisible",
            spoil=write("my.yaml", "model: {width: 30, n_heads: 4}")),
    Mistake(f"prepare {PAIRS} --trg-feat mcep", "features.target"),
    Mistake(f"prepare {PAIRS} --src-feat ppg", "features.source: 'ppg' is no kind of feature; known are mel, mcep"),
    # --- stats
    usage("stats --norm-name", "--norm-name"),
    usage("stats extra", "extra"),
    Mistake("stats --data male_femal", "did you mean male_female?"),
    Mistake("stats --data ../exp", "no prepared data"),
    Mistake("stats --norm-name nobody", "nobody"),
    Mistake("stats --norm-name a/b", "a/b"),
    Mistake("stats", "nothing is prepared", spoil=without("prepared")),
    Mistake("stats", "manifest", spoil=in_home("prepared/male_female/manifest.json")),
    Mistake("stats", "latest.json", spoil=in_home("prepared/latest.json", "[]")),
    # --- train
    usage("train --batchsize 2", "--batch-size"),
    usage("train --batch-size many", "--batch-size"),
    usage("train --batch-size 0", "greater than or equal to 1"),
    usage("train --max-steps 1.5", "--max-steps"),
    usage("train --lr", "--lr"),
    usage("train --lr=-1", "--lr"),
    usage("train --precision bf61", "bf16"),
    usage("train --tag x y", "y"),
    usage("train", "AASVC_TRAIN_LR", AASVC_TRAIN_LR="fast"),
    Mistake("train --tag a/b", "a/b"),
    Mistake("train --tag new --device abacus", "abacus"),
    Mistake("train --tag new --data male_femal", "did you mean male_female?"),
    Mistake("train --tag new --conf hificaptai", "did you mean hificaptain?"),
    Mistake("train --tag new --conf hificaptain", "aasvc prepare with the same --conf"),
    Mistake("train --tag new --norm-name nobody", "nobody"),
    Mistake("train --tag tiny --lr 0.5", "this folder has a run with other settings"),
    Mistake("train --tag new", "self.json", spoil=in_home("stats/male_female/self.json", "{")),
    Mistake("train --tag tiny --max-steps 4", "last.safetensors",
            spoil=in_home("exp/male_female_tiny/last.safetensors")),
    Mistake("train --tag tiny --overwrite", "not a training run", spoil=without("exp/male_female_tiny/config.yaml")),
    Mistake("train --print-config --data nothing", "nothing"),
    Mistake("train --print-config --conf nowhere.yaml", "nowhere.yaml"),
    # --- convert
    usage("convert", "name a recording"),
    usage("convert a.wav", "-o FILE"),
    usage("convert a.wav -o b.wav --out-dir c", "-o and --out-dir both say where results go"),
    usage("convert a.wav --set eval --model tiny", "--set stands alone"),
    usage("convert --set test --model tiny", "eval"),
    usage("convert --set eval", "--set needs --model"),
    Mistake("convert a.wav -o out.wav --data male_female", "has its own statistics of its source speaker"),
    usage("convert a.wav -o out.wav --data male_female --source-stats x.h5", "use one"),
    usage("convert --from0 list.txt -o out.wav", "--from0"),
    usage("convert a.wav -o out.wav --format mp4", "--format mp4"),
    usage("convert a.wav -o out.wav --speed 0", "--speed"),
    usage("convert a.wav -o out.wav --noise-scale=-1", "--noise-scale"),
    usage("convert a.wav -o out.wav --sed 2", "--seed"),
    usage("convert a.wav -o", "-o"),
    Mistake("convert none.wav -o out.wav --model tiny", "none.wav: no such file"),
    Mistake("convert a.wav -o out.wav --model ~nobodyofthatname/m", "~nobodyofthatname/m: no such model folder"),
    Mistake("convert empty --out-dir out --model tiny", "empty: no recordings",
            spoil=lambda place: (place.work / "empty").mkdir()),
    Mistake("convert x.wav -o out.wav --model tiny", "not readable as audio", spoil=write("x.wav")),
    Mistake("convert x.wav -o out.wav --model tiny", "not readable as audio", spoil=write("x.wav", b"")),
    Mistake("convert x.wav -o out.wav --model tiny", "holds no samples", spoil=sound("x.wav", np.zeros(0))),
    Mistake("convert x.wav -o out.wav --model tiny", "not numbers",
            spoil=sound("x.wav", np.full(999, np.nan), subtype="FLOAT")),
    Mistake("convert x.wav -o out.wav --model tiny", "too short", spoil=sound("x.wav", np.full(99, 0.1))),
    Mistake("convert a.wav b.wav -o out.wav --model tiny", "--out-dir"),
    Mistake("convert a.wav -o a.wav --model tiny", "a.wav"),
    Mistake("convert a.wav -o out.mp4 --model tiny", "out.mp4"),
    Mistake("convert a.wav -o source --model tiny", "a folder stands there"),
    Mistake("convert a.wav -o result --model tiny", "cannot write a file without suffix"),
    Mistake("convert a.wav -o x.wav --model tiny", "a folder stands there",
            spoil=lambda place: (place.work / "x.wav").mkdir()),
    Mistake(f"{CONVERT} --json b.wav/result.json", "b.wav is a file"),
    usage("convert a.wav --out-dir=", "an empty name"),
    Mistake(f"convert {'x' * 300}.wav -o out.wav", "x.wav: the name is too long"),
    Mistake(f"convert a.wav -o {'x' * 300}.wav", "x.wav: the name is too long"),
    Mistake("convert \x1b[2J.wav --out-dir o", r"\x1b[2J.wav: no file"),  # which would clear a terminal
    Mistake(f"{CONVERT} --json a.wav", "--json a.wav: is the name of a recording"),
    Mistake(f"{CONVERT} --seed {2**64}", f"seed {2**64}: expected a whole number from 0 to"),
    Mistake(f"{CONVERT} --jsonl out.wav", "--jsonl out.wav: is the name of a recording"),
    Mistake(f"{CONVERT} --json x --jsonl ./x", "--jsonl x: is a file that --json writes, too"),
    Mistake(
        "convert a.pcm --raw-format s16le --raw-rate 16000 -o o.wav --json ../work/a.pcm",
        "a file that this command reads", spoil=write("a.pcm"),
    ),
    Mistake("convert a.wav -o b.wav/out.wav --model tiny", "b.wav"),
    Mistake(f"{CONVERT} --save-mel out.txt", "out.txt"),
    Mistake(f"{CONVERT} --device abacus", "abacus"),
    Mistake("convert a.wav -o out.wav --model tny", "did you mean tiny?"),
    Mistake("convert a.wav -o out.wav --model source", "source"),
    Mistake("convert a.wav -o out.wav --model b.wav", "b.wav: is a file"),
    Mistake("convert a.wav -o out.wav --model voice --source-stats nowhere.h5", "nowhere.h5"),
    *(
        Mistake("convert a.wav -o out.wav --model voice", name, spoil=write(f"voice/{name}"))
        for name in ("config.yaml", "stats.json", "best.safetensors")
    ),
    Mistake("convert --set eval --model tiny", "male_female", spoil=without("prepared/male_female/manifest.json")),
    Mistake("convert --set eval --model tiny --data male_femal", "did you mean male_female?"),
    # --- evaluate
    usage("evaluate", "--model"),
    usage("evaluate --converted source", "go together"),
    usage("evaluate --target target", "go together"),
    usage("evaluate --source source --model tiny", "--baseline"),
    usage(f"{SCORE} --mode exact", "corrected"),
    usage(f"{SCORE} --f0-min 1", "--f0-min"),
    usage("evaluate --set test --model tiny", "eval"),
    Mistake("evaluate --model tny", "did you mean tiny?"),
    Mistake("evaluate --model tiny", "aasvc convert --set eval --model tiny"),
    Mistake("evaluate --converted nowhere --target target", "nowhere"),
    Mistake(f"{SCORE} --csv scores --report scores", "--report scores: is a file that --csv writes, too"),
    Mistake(f"{SCORE} --text t --csv t", "--csv t: is a file that this command reads", spoil=write("t")),
    Mistake("evaluate --converted a.wav --target target", "a.wav"),
    Mistake("evaluate --converted empty --target target", "empty", spoil=lambda place: (place.work / "empty").mkdir()),
    usage(f"{SCORE} --f0-min 300 --f0-max 200", "F0 range 300.0-200.0 Hz"),
    usage(f"{SCORE} --f0-max inf", "F0 range ...-inf Hz"),
    usage(f"{SCORE} --measures nope", "--measures: no measure 'nope'; there are all, signal"),
    usage(f"{SCORE} --measures ,", "--measures: no measures were asked for"),
    usage(f"{SCORE} --measures mcd --mode corrected", "measure 'mcd' is one of mode published"),
    usage(f"{SCORE} --shard 3/2", "--shard 3/2: expected I/N"),
    usage(f"{SCORE} --fail-if cer>0.2", "--fail-if cer>0.2: CER would not be computed; it takes --asr-model base"),
    Mistake(f"{SCORE}", "same name", spoil=lambda place: [path.rename(path.with_stem("xyz"[int(path.stem[-1])]))
                                                         for path in list((place.work / "target").iterdir())]),
    Mistake("evaluate --converted source --target target --source nowhere", "nowhere"),
    usage(f"{SCORE} --listening a.csv", "--listening goes with --report"),
    Mistake(f"{SCORE} --listening a.wav --report r.html", "a.wav"),
    # --- serve
    Mistake("serve --model nowhere", "nowhere"),
    Mistake("serve --host 203.0.113.5 --no-browser", "203.0.113.5"),
    usage("serve --port 70000", "--port"),
    usage("serve --sentences a.txt", "go with --record"),
    Mistake("serve --record mine", "--target DIR"),
    Mistake("serve --record mine --target nowhere", "nowhere"),
    Mistake("serve --record mine --sentences nowhere", "nowhere"),
    Mistake("serve --listen source", "twice or more"),
    Mistake("serve --listen source --listen voice", "voice: no compared recordings"),
    Mistake("serve --listen source --listen target --answers a.wav", "a.wav"),
    # --- export
    usage("export tiny", "FOLDER"),
    usage("export tiny x --format tflite", "tflite"),
    Mistake("export nowhere exported", "nowhere"),
    # --- doctor
    usage("doctor --yes", "--yes goes with --clean"),
    usage("doctor --clean", "add --yes"),
    usage("doctor --clen", "--clean"),
    usage("doctor everything", "everything"),
]  # fmt: skip


COMMANDS = ("download", "prepare", "stats", "train", "convert", "evaluate", "export", "serve", "doctor")


@pytest.fixture
def lay_out(
    trained_once: Path, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Place]]:
    """Makes a working directory and a data folder in which everything is right, as often as it is called."""
    work = tmp_path / "work"
    rng = np.random.default_rng(0)

    def make() -> Place:
        monkeypatch.chdir(tmp_path)
        for folder in (work, home.root):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(trained_once, home.root)
        for folder in ("source", "target"):
            (work / folder).mkdir(parents=True)
            for number in range(3):
                soundfile.write(work / folder / f"u{number}.wav", 0.1 * rng.standard_normal(RATE), RATE)
        for name in ("a.wav", "b.wav"):
            soundfile.write(work / name, 0.1 * rng.standard_normal(RATE), RATE)
        shutil.copytree(home.exp / "male_female_tiny", work / "voice")
        (work / "voice" / "last.safetensors").unlink()
        monkeypatch.chdir(work)
        return Place(work, home)

    yield make
    monkeypatch.chdir(tmp_path)


def snapshot(place: Place) -> dict[str, bytes | None]:
    """Every file and folder, with contents, but for the lock of a run, which is none of its results."""
    return {
        str(path): path.read_bytes() if path.is_file() else None
        for root in (place.work, place.home.root)
        for path in sorted(root.rglob("*"))
        if path.suffix != ".lock"
    }


def command_of(mistake: Mistake) -> str:
    """The command of a row; empty for those of the program itself."""
    return next((word for word in mistake.line.split() if word in COMMANDS), "")


def fault(mistake: Mistake, place: Place, outcome: Any, before: dict[str, bytes | None]) -> str:
    """What is not as it should be after a mistake; empty if all is well."""
    after = snapshot(place)
    checks = {
        f"exit code {outcome.code}": outcome.code == mistake.code,
        "something on standard output": outcome.out == "",
        "not one line": re.fullmatch(r"aasvc: error: [^\n]+\n", outcome.err) is not None,
        f"does not say {mistake.says!r}": mistake.says in outcome.err,
        "help is offered where it is no usage error, or the reverse": ("(help: aasvc" in outcome.err)
        == (mistake.code == 2),
        f"files differ: {sorted({*before.items()} ^ {*after.items()})[:3]}": before == after,
    }
    wrong = [text for text, well in checks.items() if not well]
    return f"aasvc {mistake.line}: {'; '.join(wrong)}: {outcome.err}" if wrong else ""


def test_the_matrix_covers_every_command():
    rows = Counter(map(command_of, MATRIX))
    assert all(rows[command] >= 3 for command in ("", *COMMANDS)), rows


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_a_mistake_is_one_line_and_leaves_nothing_behind(
    aasvc: Callable[..., Any],
    lay_out: Callable[[], Place],
    command: str,
):
    place, faults = lay_out(), []
    for mistake in (mistake for mistake in MATRIX if command_of(mistake) == command):
        if mistake.spoil is not None:
            mistake.spoil(place)
        before = snapshot(place)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in mistake.variables.items():
                patch.setenv(name, value)
            outcome = aasvc("--quiet", *mistake.line.split())
        faults.append(fault(mistake, place, outcome, before))
        if faults[-1] or mistake.spoil is not None:
            place = lay_out()
    assert faults
    assert not [text for text in faults if text]


@pytest.mark.parametrize("line", ["--debug stats --data nothing", "stats --data nothing --debug"])
def test_a_traceback_is_shown_on_request(aasvc: Callable[..., Any], home: Home, line: str):
    outcome = aasvc(*line.split())
    assert outcome.code == 1
    assert outcome.err.startswith("Traceback")
    assert outcome.err.splitlines()[-1].startswith("aasvc: error: ")
