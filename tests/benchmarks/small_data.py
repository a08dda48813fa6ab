"""What comes of little data: one training, or one conversion, for each row of the table, and what it is held to.

    python tests/benchmarks/small_data.py SETS --home DIR --asr-model FOLDER [--rows pairs-20,unseen] [--json]

SETS has the recordings; rows whose folders are missing there are named and left out:

    corpus/{male,female}/{wav,text}/<set>   a parallel Japanese corpus
    unseen/<voice>/<id>.flac                its eval sentences, read by voices that the bundled voice never heard
    language/{source,target}, language.txt  two further voices in another language, and what they say
    french/, spanish/ {source,target}       prompts read by two people each

All is done by the commands that users have, and kept in the data folder: what is finished is not done again, and a
training that was interrupted goes on. Rates are in points of per cent over those of the target's own recordings, for
the prompts, whose words are not known, over those of the source recordings against what is recognised in the target's.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from aasvc_cli.audio.f0 import dio, frame_times
from aasvc_cli.audio.files import list_audio, read_audio, write_audio
from aasvc_cli.audio.world import world
from aasvc_cli.data.manifest import read_manifest
from aasvc_cli.data.matching import SIDES
from aasvc_cli.data.ranking import RANKING_FILE
from aasvc_cli.measures.judges import Whisper
from aasvc_cli.measures.transcripts import transcript
from aasvc_cli.storage.files import make_folder, read_json, write_text
from aasvc_cli.storage.home import Home

BUZZ_HERTZ = 100.0
"""Pitch of the pseudo-electrolaryngeal voice."""
BUZZ_APERIODICITY = 1e-3
N_PROMPTS = 20
"""Pairs of people to be scored."""
SAME_WORDS = 0.35
"""Share of characters by which two hearings of one prompt over a telephone differ at most."""
EDITS = ("substitutions", "deletions", "insertions")
Figures = Mapping[str, float]


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        what: folders in SETS that it needs
        bars: limits by figure; a figure that ends in ``>`` has to be at least as large
    """

    what: tuple[str, ...]
    run: Callable[[Bench, str], Figures]
    bars: Mapping[str, float] = field(default_factory=dict)


class Bench:
    """The commands, and where they work."""

    def __init__(self, sets: Path, home: Path, asr_model: str, options: list[str]) -> None:
        self.sets, self.home, self.asr_model, self.options = sets, home, asr_model, options

    def call(self, *arguments: str | Path) -> None:
        """One command of ours; its messages are shown, and a failure ends the row."""
        command = [sys.executable, "-m", "aasvc_cli", "--home", self.home, *arguments]
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)

    def trained(self, name: str, *prepare: str | Path) -> float:
        """Prepare a set, train a voice, convert the eval set; minutes of training."""
        if not (self.home / "prepared" / name / "manifest.json").is_file():
            self.call("prepare", *prepare, "--name", name, *self.options)
        result = self.home / f"{name}-trained.json"
        if not result.is_file():
            self.call("train", "--data", name, "--tag", name, "--json", result)
        self.call("convert", "--set", "eval", "--data", name, "--model", name, "--skip-existing")
        return float(read_json(result, "a result of train")["seconds"]) / 60.0

    def scored(self, *arguments: str | Path) -> dict[str, Any]:
        """What ``evaluate`` says of some conversions."""
        result = self.home / "scores.json"
        self.call("evaluate", *arguments, "--measures", "all", "--asr-model", self.asr_model, "--json", result)
        tree: dict[str, Any] = read_json(result, "scores")
        return tree


def figures(scores: Mapping[str, Any]) -> dict[str, float]:
    """The figures that rows are held to: rates in per cent, differences from the target's own recordings."""
    means, own = ({name: _mean(entry) for name, entry in scores[part].items()} for part in ("corpus", "ceiling"))
    rate, own_rate = (error_rate(scores["utterances"], side) for side in ("transcript", "target_transcript"))
    return {
        "CER": rate,
        "CER over recordings": rate - own_rate,
        "MCD": means["MCD"],
        "F0CORR": means["F0CORR"],
        "similarity": means["SIM"],
        "similarity under recordings": own["SIM"] - means["SIM"],
        "DNSMOS": means["DNSMOS"],
        "DNSMOS under recordings": own["DNSMOS"] - means["DNSMOS"],
    }


def error_rate(utterances: Sequence[Mapping[str, Any]], side: str) -> float:
    """Wrong characters per cent of all that are said, in a sentence all of them at most.

    Recognisers repeat without end what they do not understand, and one such sentence would outweigh the others.
    """
    counts = [each[side]["counts"]["CER"] for each in utterances]
    wrong = [min(sum(each[kind] for kind in EDITS), each["length"]) for each in counts]
    return 100.0 * sum(wrong) / sum(each["length"] for each in counts)


def _mean(entry: Any) -> float:
    value = entry.get("mean") if isinstance(entry, Mapping) else entry
    return math.nan if value is None else float(value)


# --- rows -----------------------------------------------------------------------------------------------------------


def of_corpus(count: str) -> Callable[[Bench, str], Figures]:
    """A voice from the first pairs of the corpus."""

    def run(bench: Bench, name: str) -> Figures:
        chosen = [] if count == "all" else ["--train", count]
        minutes = bench.trained(name, bench.sets / "corpus", *chosen)
        found = figures(bench.scored("--model", name, "--data", name))
        bench.call("convert", "--set", "dev", "--data", name, "--model", name, "--skip-existing")
        dev = figures(bench.scored("--model", name, "--data", name, "--set", "dev"))
        return found | {"CER over recordings, dev": dev["CER over recordings"], "minutes": minutes}

    return run


def through_bundled(bench: Bench, name: str) -> Figures:
    """Eval sentences of the corpus through the bundled voice."""
    return converted_by_bundled(bench, bench.sets / "corpus" / "male" / "wav" / "eval", name)


def unseen(bench: Bench, name: str) -> Figures:
    """Eval sentences read by voices that were never trained on, through the bundled voice; the mean over the voices."""
    each = [
        converted_by_bundled(bench, voice, f"{name}-{voice.name}")
        for voice in sorted((bench.sets / "unseen").iterdir())
        if voice.is_dir()
    ]
    return {key: float(np.mean([one[key] for one in each])) for key in each[0]}


def converted_by_bundled(bench: Bench, recordings: Path, name: str) -> Figures:
    """Recordings of eval sentences, converted and scored against the target's."""
    out, female = bench.home / "converted" / name, bench.sets / "corpus" / "female"
    bench.call("convert", recordings, "--out-dir", out, "--skip-existing")
    texts = ("--text", female / "text" / "eval.txt")
    return figures(bench.scored("--converted", out, "--target", female / "wav" / "eval", *texts))


def in_another_language(bench: Bench, name: str) -> Figures:
    """80 pairs of two further voices."""
    root = bench.sets / "language"
    sides = ("--source", root / "source", "--target", root / "target")
    minutes = bench.trained(name, *sides, "--train", "80")
    return figures(bench.scored("--model", name, "--data", name, "--text", bench.sets / "language.txt")) | {
        "minutes": minutes
    }


def electrolarynx(bench: Bench, name: str) -> Figures:
    """80 pairs of the male voice as a buzz of one pitch, and itself."""
    male, root = bench.sets / "corpus" / "male" / "wav", bench.home / "corpora" / name
    for path in (path for kind in ("train_parallel", "dev", "eval") for path in list_audio(male / kind)):
        place = root / path.relative_to(male).with_suffix(".flac")
        if not place.is_file():
            make_folder(place.parent)
            wave, rate = read_audio(path)
            write_audio(place, buzzed(wave, rate), rate)
    sets = [part for kind in ("dev", "eval") for part in (f"--{kind}", _names(bench, male / kind, kind))]
    minutes = bench.trained(name, "--source", root, "--target", male, "--train", "80", *sets)
    texts = male.parent / "text" / "eval.txt"
    return figures(bench.scored("--model", name, "--data", name, "--text", texts)) | {"minutes": minutes}


def _names(bench: Bench, folder: Path, kind: str) -> Path:
    """A file with the names of the recordings in a folder."""
    path = bench.home / f"electrolarynx-{kind}.txt"
    write_text(path, "".join(f"{recording.stem}\n" for recording in list_audio(folder)))
    return path


def buzzed(wave: np.ndarray, rate: int) -> np.ndarray:
    """Speech whose every sound is voiced at one pitch: (n,) -> (n,)."""
    signal = wave.astype(np.float64)
    f0 = dio(signal, rate, f0_min=71.0, f0_max=400.0)
    envelope = world().cheaptrick(signal, f0, frame_times(len(f0)), rate)
    steady = np.full_like(f0, BUZZ_HERTZ)
    result = world().synthesize(steady, envelope, np.full_like(envelope, BUZZ_APERIODICITY), rate)
    return np.clip(result[: len(wave)], -1.0, 1.0).astype(np.float32)


def prompts(language: str, code: str) -> Callable[[Bench, str], Figures]:
    """Pairs of two people of at least a second each that say the same, as far as a recogniser tells.

    Both phrased most prompts themselves, so many pairs hold the same meaning in other words. What the target says in
    these is learnt from as well, but for the pairs that are scored. What is said is what is recognised in the target's
    recordings.
    """

    def run(bench: Bench, name: str) -> Figures:
        root, texts = bench.sets / language, bench.home / f"{name}.txt"
        table, drop = (bench.home / f"{name}-{what}" for what in ("pairs.tsv", "unlike.txt"))
        first, second = (root / side for side in SIDES)
        both = [(path, second / path.relative_to(first)) for path in list_audio(first)]
        long = [pair for pair in both if pair[1].is_file() and min(soundfile.info(one).duration for one in pair) >= 1]
        sides = ("--source", first, "--target", second, "--pairs", table)
        ranking = bench.home / "prepared" / f"{name}-all" / RANKING_FILE
        write_text(table, "".join(f"{one}\t{other}\n" for one, other in long))
        if not ranking.is_file():
            asr = ("--asr-model", bench.asr_model, "--language", code)
            bench.call("prepare", *sides, "--name", f"{name}-all", *asr, *bench.options)
        rows = [*csv.DictReader(ranking.read_text(encoding="utf-8").splitlines(), dialect="excel-tab")]
        unlike = [row["pair"] for row in rows if float(row["text_difference"]) > SAME_WORDS]
        n_fit = len(rows) - len(unlike)
        if n_fit < 2 * N_PROMPTS:
            return {"pairs that fit": n_fit, "pairs": len(rows)}
        write_text(drop, "".join(f"{pair}\n" for pair in unlike))
        minutes = bench.trained(name, *sides, "--drop", drop, "--eval", str(N_PROMPTS), "--extra-target", second)
        judged = read_manifest(Home(bench.home), name).sets["eval"]
        said, wanted = (
            [*recognised([getattr(pair, side) for pair in judged], bench.asr_model, code)] for side in SIDES
        )
        write_text(texts, "".join(f"{pair.utterance_id} {text}\n" for pair, text in zip(judged, wanted, strict=True)))
        counts = [transcript(text, heard, code).counts["CER"] for text, heard in zip(wanted, said, strict=True)]
        source = clipped([each.errors / each.length for each in counts])
        found = {"pairs that fit": float(n_fit), "minutes": minutes}
        for about in (", universal vocoder", ""):
            if not about:
                bench.call("train", "--kind", "vocoder", "--data", name, "--tag", name)
            chosen = ("--vocoder", "universal") if about else ()
            bench.call("convert", "--set", "eval", "--data", name, "--model", name, *chosen)
            scores = bench.scored("--model", name, "--data", name, "--text", texts, "--language", code)
            rate = clipped([each["scores"]["CER"] for each in scores["utterances"]])
            each = figures(scores) | {"CER over source": rate - source}
            found |= {f"{key}{about}": value for key, value in each.items()}
        return found

    return run


def clipped(rates: Sequence[float]) -> float:
    """Mean of error rates in per cent, each at most 100: recognisers repeat what they do not understand."""
    return 100.0 * float(np.minimum(rates, 1.0).mean())


def recognised(recordings: Sequence[Path], asr_model: str, language: str) -> Iterator[str]:
    """What is heard in recordings."""
    whisper = Whisper(asr_model, threads=1)
    for path in recordings:
        yield whisper.recognise(*read_audio(path), language)


OVER, MINUTES = "CER over recordings", "minutes"
PEOPLE = {
    "CER over source": 15.0, "F0CORR >": 0.55, "similarity under recordings": 0.06, "DNSMOS under recordings": 0.15
}  # fmt: skip
ROWS = {
    "pairs-20": Row(("corpus",), of_corpus("20"), {OVER: 6.0, MINUTES: 5.0}),
    "pairs-40": Row(("corpus",), of_corpus("40")),
    "pairs-80": Row(("corpus",), of_corpus("80"), {OVER: 2.0, f"{OVER}, dev": 2.0, MINUTES: 10.0}),
    "pairs-250": Row(("corpus",), of_corpus("250")),
    "pairs-all": Row(("corpus",), of_corpus("all")),
    "unseen": Row(("corpus", "unseen"), unseen, {OVER: 5.0, "MCD": 4.3}),
    "language": Row(("language",), in_another_language, {OVER: 3.0, "F0CORR >": 0.75, "similarity >": 0.85}),
    "electrolarynx": Row(("corpus",), electrolarynx, {OVER: 3.0, "F0CORR >": 0.6}),
    "french": Row(("french",), prompts("french", "fr"), PEOPLE),
    "spanish": Row(("spanish",), prompts("spanish", "es"), PEOPLE),
    "bundled": Row(("corpus",), through_bundled, {"CER": 12.7, "MCD": 3.75, "F0CORR >": 0.894, "DNSMOS >": 3.10}),
}


def lines(name: str, row: Row, found: Figures) -> Iterator[str]:
    """A row for people: every figure, and of those with a bar whether it is met."""
    for key, value in found.items():
        least, most = row.bars.get(f"{key} >"), row.bars.get(key)
        bar = "" if least is most is None else f"at least {least:g}" if most is None else f"at most {most:g}"
        met = value >= least if least is not None else most is None or value <= most
        yield f"{name:14} {key:46} {value:8.3f}  {bar}{'' if met else ': missed'}".rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", type=Path)
    parser.add_argument("--home", type=Path, required=True, help="data folder, where all is kept")
    parser.add_argument("--asr-model", required=True)
    parser.add_argument("--rows", default=",".join(ROWS), help="some of: " + ", ".join(ROWS))
    parser.add_argument("--options", default="", help="further ones of prepare, such as '--src-feat content'")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    names = arguments.rows.split(",")
    if unknown := [name for name in names if name not in ROWS]:
        parser.error(f"--rows: {', '.join(unknown)}; there is: {', '.join(ROWS)}")
    bench = Bench(arguments.sets, make_folder(arguments.home), arguments.asr_model, arguments.options.split())
    result: dict[str, Figures] = {}
    for name in names:
        row = ROWS[name]
        if missing := [part for part in row.what if not (arguments.sets / part).is_dir()]:
            print(f"{name:14} left out: {arguments.sets} has no {', '.join(missing)}", flush=True)
            continue
        result[name] = row.run(bench, name)
        print("\n".join(lines(name, row, result[name])), flush=True)
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
