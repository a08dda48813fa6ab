"""``aasvc doctor``: what it finds, what it tells others, what it frees."""

from __future__ import annotations

import getpass
import json
import os
import re
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aasvc_cli import __version__
from aasvc_cli.cli import doctor as doctor_command
from aasvc_cli.pipeline import doctor
from aasvc_cli.storage.home import Home
from aasvc_cli.storage.imported import import_once
from aasvc_cli.storage.result_cache import ResultCache

Aasvc = Callable[..., Any]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install aasvc with other requirements, as far as its metadata tells."""

    def install(*requirements: str, extras: Sequence[str] = ()) -> None:
        folder = tmp_path / "packages" / "aasvc-9.9.dist-info"
        folder.mkdir(parents=True, exist_ok=True)
        lines = ["Metadata-Version: 2.4", "Name: aasvc", "Version: 9.9"]
        lines += [
            *(f"Provides-Extra: {extra}" for extra in extras),
            *(f"Requires-Dist: {each}" for each in requirements),
        ]
        (folder / "METADATA").write_text("\n".join(lines) + "\n")

    monkeypatch.syspath_prepend(tmp_path / "packages")
    return install


@pytest.fixture(autouse=True)
def _few_packages(install: Callable[..., None]) -> None:
    """Importing everything that is needed takes seconds; one test does it."""
    install("numpy", "torch")


def report(aasvc: Aasvc, *arguments: object, code: int = 0) -> dict[str, Any]:
    outcome = aasvc("--quiet", "doctor", "--json", "-", *arguments)
    assert outcome.code == code, outcome.err
    return json.loads(outcome.out)


class TestReport:
    def test_a_sound_installation_converts_the_bundled_recording(self, aasvc: Aasvc, home: Home):
        found = report(aasvc)
        assert found["ok"] is True
        assert found["broken"] == []
        test = found["checks"]["self-test"]
        assert test["status"] == "ok"
        assert test["real_time_factor"] == pytest.approx(test["convert_seconds"] / test["seconds"])
        assert test["source_seconds"] / 3 < test["seconds"] < test["source_seconds"] * 3
        assert found["checks"]["aasvc"]["version"] == __version__
        assert found["checks"]["python"]["version"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
        assert found["checks"]["torch"]["threads"] >= 1
        assert found["checks"]["memory"]["total_bytes"] > 1 << 28
        assert not home.root.exists(), "looking leaves nothing behind"

    def test_the_data_folder_is_measured_by_part(self, aasvc: Aasvc, trained: Home):
        checks = report(aasvc, "--no-self-test")["checks"]
        assert "self-test" not in checks
        parts = checks["data folder"]["parts"]
        for part in ("features", "exp", "prepared", "stats"):
            files = [path for path in (trained.root / part).rglob("*") if path.is_file()]
            assert parts[part] == {"bytes": sum(path.stat().st_size for path in files), "files": len(files)}
        assert parts["vocoders"] == {"bytes": 0, "files": 0}
        assert checks["data folder"]["bytes"] == sum(part["bytes"] for part in parts.values())
        assert checks["training runs"]["names"] == ["male_female_tiny"]
        assert checks["prepared sets"]["names"] == ["male_female"]
        assert checks["corpora"]["status"] == "missing"
        assert "aasvc download" in checks["corpora"]["message"]

    def test_people_get_a_line_per_check(self, aasvc: Aasvc, trained: Home):
        lines = aasvc("doctor", "--no-self-test").out.splitlines()
        names = [line[4:].split("  ")[0] for line in lines]
        assert names[:2] == ["aasvc", "python"]
        assert {"torch", "memory", "disk", "data folder", "writing"} <= set(names)
        assert all(line[:2] in ("ok", "--") for line in lines)

    def test_a_report_names_neither_the_home_folder_nor_the_user(
        self, aasvc: Aasvc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("HOME", str(tmp_path / "alice"))
        monkeypatch.setenv("AASVC_HOME", str(tmp_path / "alice" / "voices"))
        (tmp_path / "elsewhere" / "alice").mkdir(parents=True)
        (tmp_path / "alice" / "voices" / "exp").mkdir(parents=True)
        text = json.dumps(report(aasvc, "--no-self-test"))
        assert "alice" not in text
        assert '"~/voices' in text
        assert doctor.private(f"{tmp_path}/elsewhere/alice/x") == f"{tmp_path}/elsewhere/<user>/x"
        assert "alice" not in aasvc("doctor", "--no-self-test").out
        assert getpass.getuser() == "root" or getpass.getuser() not in text

    def test_extras_come_with_the_way_to_get_them(self, aasvc: Aasvc, install: Callable[..., None]):
        install(
            "numpy", "filelock>=3; extra == 'here'", 'no-such-thing>=1; extra == "fancy"',
            "numpy>=999; extra == 'old'", "no-such-test; extra == 'test'",
            extras=["here", "fancy", "old", "test"],
        )  # fmt: skip
        checks = report(aasvc, "--no-self-test")["checks"]
        assert {name for name in checks if name.startswith("extra ")} == {"extra here", "extra fancy", "extra old"}
        assert [checks[f"extra {name}"]["status"] for name in ("here", "fancy", "old")] == ["ok", "missing", "missing"]
        assert checks["extra fancy"]["message"] == "no-such-thing is not installed; run: pip install 'aasvc[fancy]'"
        assert re.match(r"numpy is [\d.]+, expected >=999; run: ", checks["extra old"]["message"])

    def test_settings_and_misspelt_variables_are_reported(
        self, aasvc: Aasvc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "aasvc.yaml").write_text("train: {accum: 2}")
        monkeypatch.setenv("AASVC_BATCHSIZE", "3")
        checks = report(aasvc, "--no-self-test")["checks"]
        assert checks["settings"]["files"] == ["aasvc.yaml"]
        assert checks["variables"]["unknown"] == ["AASVC_BATCHSIZE"]
        assert "did you mean AASVC_BATCH_SIZE?" in checks["variables"]["message"]

    def test_every_requirement_of_the_project_is_imported(self, aasvc: Aasvc, install: Callable[..., None]):
        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        install(*project["dependencies"], extras=[*project["optional-dependencies"]])
        check = report(aasvc, "--no-self-test")["checks"]["packages"]
        assert check["faults"] == []
        assert set(check["versions"]) == {re.match(r"[\w.-]+", line)[0] for line in project["dependencies"]}


class TestBroken:
    @pytest.mark.parametrize(
        ("requirement", "fault"),
        [
            ("no-such-package", "no-such-package is not installed; run: pip install no-such-package"),
            ("numpy>=999", r"numpy is [\d.]+, expected >=999; run: pip install numpy"),
            ("broken-one", r"broken-one cannot be imported \(OSError: libsomething\.so\); run: pip install broken-one"),
        ],
    )
    def test_a_package_that_is_absent_too_old_or_cannot_be_imported(
        self, aasvc: Aasvc, install: Callable[..., None], tmp_path: Path, requirement: str, fault: str
    ):
        install("filelock", requirement, "no-such-package; python_version < '3'")
        folder = tmp_path / "packages" / "broken_one-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.4\nName: broken-one\nVersion: 1\n")
        (folder / "top_level.txt").write_text("broken_one\n")
        (tmp_path / "packages" / "broken_one.py").write_text("raise OSError('libsomething.so')")
        found = report(aasvc, "--no-self-test", code=1)
        assert found["broken"] == ["packages"]
        assert re.fullmatch(fault, found["checks"]["packages"]["message"])

    def test_a_checkout_that_is_not_installed(self, aasvc: Aasvc, monkeypatch: pytest.MonkeyPatch):
        def missing(name: str) -> Any:
            raise doctor.metadata.PackageNotFoundError(name)

        monkeypatch.setattr(doctor.metadata, "distribution", missing)
        check = report(aasvc, "--no-self-test")["checks"]["packages"]
        assert check["status"] == "missing" and "pip install ." in check["message"]

    def test_a_data_folder_that_cannot_be_written(self, aasvc: Aasvc):
        if not Path("/proc/self").is_dir():
            pytest.skip("needs a file system that takes no files")
        outcome = aasvc("--home", "/proc/aasvc", "doctor", "--no-self-test")
        assert outcome.code == 1
        assert "!!  writing" in outcome.out
        assert outcome.err.splitlines()[-1] == "aasvc: error: writing: not working; see above"

    def test_a_file_in_the_place_of_the_data_folder(self, aasvc: Aasvc, home: Home):
        home.root.write_text("")
        assert "data folder" in report(aasvc, "--no-self-test", code=1)["broken"]

    def test_a_settings_file_with_faults_is_a_finding_and_no_obstacle(
        self, aasvc: Aasvc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.chdir(tmp_path)
        for text, fault in (("nonsense: 1", "nonsense: unknown key"), ("options: {tga: x}", "options.tga: no such")):
            (tmp_path / "aasvc.yaml").write_text(text)
            found = report(aasvc, "--no-self-test", code=1)
            assert found["broken"] == ["settings"]
            assert fault in found["checks"]["settings"]["message"]

    @pytest.mark.parametrize(
        ("result", "fault"),
        [
            (np.zeros(48000), "silent"),
            (np.full(48000, np.nan), "not finite"),
            (np.zeros(0), "empty"),
            (np.ones(24000 * 60), "became 60.0 s"),
        ],
        ids=["silence", "NaN", "nothing", "a minute"],
    )
    def test_a_conversion_that_is_no_speech(
        self, aasvc: Aasvc, monkeypatch: pytest.MonkeyPatch, result: np.ndarray, fault: str
    ):
        monkeypatch.setattr(doctor_command, "_bundled_voice", lambda: lambda wave, rate: (result, 24000))
        found = report(aasvc, code=1)
        assert found["broken"] == ["self-test"]
        assert fault in found["checks"]["self-test"]["message"]

    def test_a_library_that_breaks_during_the_conversion(self, aasvc: Aasvc, monkeypatch: pytest.MonkeyPatch):
        def broken() -> Any:
            raise ImportError("libsomething.so: cannot open shared object file")

        monkeypatch.setattr(doctor_command, "_bundled_voice", broken)
        assert "libsomething.so" in report(aasvc, code=1)["checks"]["self-test"]["message"]


class TestClean:
    @pytest.fixture
    def littered(self, trained: Home) -> Home:
        """A data folder with leftovers, old and new."""
        old = time.time() - 2 * doctor.OLD_SECONDS
        for name, when in (
            ("exp/male_female_tiny/.last.safetensors.ab12cd34", old), ("corpora/x/archive.zip.part", old),
            ("corpora/y/archive.zip.part", None), ("prepared/.manifest.json.zzzzzzzz", None),
            ("cache/contours/ab/ab.npz", None),
        ):  # fmt: skip
            path = trained.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * 1000)
            if when:
                os.utime(path, (when, when))
        return trained

    def test_features_results_and_old_leftovers_go_and_everything_else_stays(self, aasvc: Aasvc, littered: Home):
        before = {path for path in littered.root.rglob("*") if path.is_file()}
        features, results = (
            {path for path in folder.rglob("*") if path.is_file()} for folder in (littered.features, littered.cache)
        )
        assert features and results
        outcome = aasvc("doctor", "--clean", "--yes", "--json", "-")
        assert outcome.code == 0, outcome.err
        gone = before - {path for path in littered.root.rglob("*") if path.is_file()}
        assert {path.name for path in gone - features - results} == {".last.safetensors.ab12cd34", "archive.zip.part"}
        assert features | results <= gone
        result = json.loads(outcome.out)
        assert [(cache["name"], cache["files"]) for cache in result["caches"]] == [
            ("features", len(features)),
            ("cache", len(results)),
            ("left over", 2),
        ]
        assert aasvc("doctor", "--clean").out.strip() == f"{littered.root}: nothing to free"

    @pytest.mark.process
    def test_after_it_training_makes_again_what_it_needs(self, aasvc: Aasvc, trained: Home):
        aasvc("doctor", "--clean", "--yes")
        assert not trained.features.exists()
        assert aasvc("train", "--tag", "new").code == 0
        assert aasvc("train", "--tag", "tiny").code == 0  # nor does a run take its data for other ones

    def test_without_a_terminal_an_option_must_confirm(self, aasvc: Aasvc, trained: Home):
        outcome = aasvc("doctor", "--clean")
        assert outcome.code == 2
        assert "--yes" in outcome.err
        assert list(trained.features.rglob("*.safetensors"))

    @pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("", 130)])
    def test_on_a_terminal_it_asks(
        self, aasvc: Aasvc, trained: Home, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
    ):
        import io

        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
        outcome = aasvc("doctor", "--clean")
        assert outcome.code == code
        assert "features: " in outcome.err
        assert bool(list(trained.features.rglob("*.safetensors"))) == (code != 0)

    def test_results_that_evaluate_keeps_go_too(self, aasvc: Aasvc, home: Home):
        kept = ResultCache(home.cache)
        kept.tree("voices", {"content": "x"}, lambda: [1.0])
        (path,) = [path for path in home.cache.rglob("*") if path.is_file()]
        assert aasvc("doctor", "--clean", "--yes").out.startswith("cache: ")
        assert not path.exists() and not home.cache.exists()

    def test_of_published_models_goes_what_can_be_made_again(self, aasvc: Aasvc, home: Home, tmp_path: Path):
        places = {}
        for name in ("there", "gone", "changed"):
            published = tmp_path / name / "checkpoint.pkl"
            published.parent.mkdir()
            published.write_text(name)
            places[name] = import_once(
                home,
                published.parent,
                [published],
                lambda place, _: (place / "weights").write_text("w"),
                lambda place: place,
            )
        (tmp_path / "gone" / "checkpoint.pkl").unlink()
        (tmp_path / "changed" / "checkpoint.pkl").write_text("something else")
        foreign = home.imported / "mine-0123456789abcdef" / "weights"  # nobody knows where this came from
        foreign.parent.mkdir()
        foreign.write_text("w")
        old = time.time() - 2 * doctor.OLD_SECONDS
        part = home.imported / ".x.abc.part" / "weights"
        part.parent.mkdir()
        part.write_text("w")
        os.utime(part, (old, old))
        outcome = aasvc("doctor", "--clean", "--yes")
        assert (outcome.code, outcome.out.splitlines()[-1]) == (0, "freed: 2 B")
        assert {name for name, place in places.items() if place.exists()} == {"gone", "changed"}
        assert foreign.exists() and not part.parent.exists()

    @pytest.mark.parametrize(
        "lock", ["exp/.male_female_tiny.lock", "vocoders/.female_tiny.lock", "encoders/.female_tiny.lock"]
    )
    def test_not_while_something_is_training(self, aasvc: Aasvc, trained: Home, lock: str):
        from filelock import FileLock

        (trained.root / lock).parent.mkdir(exist_ok=True)
        with FileLock(trained.root / lock):
            outcome = aasvc("doctor", "--clean", "--yes")
        assert outcome.code == 1
        assert "female_tiny: is being trained or fetched" in outcome.err
        assert list(trained.features.rglob("*.safetensors"))

    def test_no_data_folder_at_all(self, aasvc: Aasvc, home: Home):
        assert "nothing to free" in aasvc("doctor", "--clean").out
        assert not home.root.exists()
