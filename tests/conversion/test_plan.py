"""Which recording goes where; that files and folders keep their names is tested with the conversion."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import soundfile

from aasvc_cli.audio.streams import STREAM
from aasvc_cli.conversion.origin import Origin
from aasvc_cli.conversion.plan import Job, Plan, Refused, plan_files, plan_names
from aasvc_cli.errors import AudioError, DataError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("rec/a.wav", "rec/b.flac", "rec/sub/c.wav", "rec/[1].wav", "other/a.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def paths(*names: str) -> list[Path]:
    return [Path(name) for name in names]


def places(jobs: list[Job]) -> dict[str, str]:
    return {job.source.as_posix(): job.output.as_posix() for job in jobs}


class TestPatterns:
    def test_a_pattern_expands_as_in_a_shell(self):
        jobs = plan_files(paths("rec/*.wav"), None, Path("out"))
        assert places(jobs) == {"rec/[1].wav": "out/[1].wav", "rec/a.wav": "out/a.wav"}
        assert places(plan_files(paths("rec/**/c.*"), None, Path("out"))) == {"rec/sub/c.wav": "out/c.wav"}

    def test_a_file_whose_name_looks_like_a_pattern_is_that_file(self):
        assert places(plan_files(paths("rec/[1].wav"), None, Path("out"))) == {"rec/[1].wav": "out/[1].wav"}

    def test_a_pattern_that_nothing_fits_is_refused_with_a_near_name(self):
        with pytest.raises(DataError, match=r"rec/\?\.wave: no file fits this pattern; the folder has"):
            plan_files(paths("rec/?.wave"), None, Path("out"))

    def test_a_pattern_that_fits_several_needs_a_folder(self):
        with pytest.raises(DataError, match="2 were given"):
            plan_files(paths("rec/*.wav"), Path("out.wav"), None)


class TestStreams:
    def test_they_have_names_of_their_own(self):
        (job,) = plan_files([STREAM], STREAM, None)
        assert (job.source, job.output, job.format, job.name) == (STREAM, STREAM, "wav", "standard input")
        assert places(plan_files([STREAM], None, Path("out"))) == {"-": "out/stdin.wav"}

    def test_a_format_gives_the_suffix(self):
        assert places(plan_files(paths("rec/a.wav"), None, Path("out"), "flac")) == {"rec/a.wav": "out/a.flac"}
        assert places(plan_files(paths("rec/a.wav"), None, Path("out"), "s16le")) == {"rec/a.wav": "out/a.raw"}

    @pytest.mark.parametrize(
        ("name", "format_name", "advice"),
        [
            ("o.wav", "flac", "name it o.flac, or leave --format out"),
            ("new/O.FLAC", "wav", "name it new/O.wav, or leave --format out"),
            ("o.opus", "ogg", "name it o.ogg"),
            ("o.mp3", "wav", "name it o.wav"),
            ("o.m4a", "flac", "name it o.flac"),
        ],
    )
    def test_a_name_that_says_another_format_is_refused(self, name: str, format_name: str, advice: str):
        said = rf"^-o {name} --format {format_name}: the name says \w+, the format {format_name}; {advice}$"
        with pytest.raises(DataError, match=said):
            plan_files(paths("rec/a.wav"), Path(name), None, format_name)

    @pytest.mark.parametrize(
        ("name", "format_name"),
        [
            ("o.wav", "wav"), ("o.Flac", "flac"), ("o.oga", "ogg"), ("o", "flac"), ("o.2024", "ogg"), ("-", "flac"),
            ("o.wav", "s16le"), ("o.mp3", "f32be"),
        ],
    )  # fmt: skip
    def test_other_names_go_with_it(self, name: str, format_name: str):
        (job,) = plan_files(paths("rec/a.wav"), Path(name), None, format_name)
        assert (job.output, job.format) == (Path(name), format_name)


class TestNames:
    def plan(self, *names: str, out: str = "out") -> list[Job | Refused]:
        return list(plan_names(iter(paths(*names)), Path(out)))

    def test_names_keep_their_folders_but_never_leave_the_output_folder(self, here: Path):
        jobs = self.plan("rec/a.wav", "./rec/sub/c.wav", "../x/d.wav", str(here / "other" / "a.wav"))
        outputs = [job.output.as_posix() for job in jobs if isinstance(job, Job)]
        assert outputs == ["out/rec/a.wav", "out/rec/sub/c.wav", "out/x/d.wav", f"out{here.as_posix()}/other/a.wav"]

    def test_they_are_planned_as_they_come(self):
        seen = []

        def names():
            for name in paths("rec/a.wav", "rec/b.flac"):
                seen.append(name)
                yield name

        jobs = plan_names(names(), Path("out"))
        next(jobs)
        assert len(seen) == 1

    def test_folders_repetitions_and_results_are_left_out(self, here: Path):
        (here / "out").mkdir()
        (here / "out" / "old.wav").write_bytes(b"")
        jobs = self.plan("rec", "rec/a.wav", "rec/../rec/a.wav", "rec/a.wav", "out/old.wav", "out/rec/a.wav")
        assert [job.source for job in jobs if isinstance(job, Job)] == paths("rec/a.wav")

    def test_two_names_that_would_become_one_are_refused_and_the_rest_goes_on(self, here: Path):
        (here / "rec" / "a.flac").write_bytes(b"")
        first, second, third = self.plan("rec/a.wav", "rec/a.flac", "rec/b.flac")
        assert isinstance(first, Job)
        assert isinstance(third, Job)
        assert isinstance(second, Refused)
        assert "would both become" in str(second.error)

    def test_a_recording_is_not_overwritten(self, here: Path):
        (refused,) = self.plan("a.wav", out=".") if (here / "a.wav").write_bytes(b"") == 0 else ()
        assert isinstance(refused, Refused)
        assert "overwrite the recording" in str(refused.error)
        os.link(here / "rec" / "a.wav", here / "b.wav")
        _, refused = self.plan("rec/a.wav", "b.wav", out=".")
        assert isinstance(refused, Refused)

    def test_nor_is_one_whose_name_is_still_to_come(self, here: Path):
        for name in ("c.flac", "c.wav"):
            (here / name).write_bytes(b"")
        refused, *others = self.plan("c.flac", "c.wav", out=".")
        assert isinstance(refused, Refused)
        assert "c.flac: its result would overwrite the recording c.wav" in str(refused.error)
        assert all(isinstance(other, Refused) for other in others)


class TestPlans:
    def test_what_is_there_what_is_missing_and_what_is_left(self, here: Path):
        (here / "out").mkdir()
        soundfile.write(here / "out" / "a.wav", [0.1] * 800, 16000)
        jobs = plan_files(paths("rec/a.wav", "rec/b.flac", "rec/gone.wav"), None, Path("out"))
        plan = Plan.of(jobs, Origin("0" * 16, "1" * 16))
        assert plan.lines() == [f"{Path('rec/b.flac')} -> {Path('out/b.wav')}"]
        assert plan.summary() == "1 recordings would be converted, 1 are there already, 1 cannot be"
        assert isinstance(plan.refused[0].error, AudioError)
        assert [len(part) for part in plan.to_tree().values()] == [1, 1, 1]
        assert len(Plan.of(jobs).jobs) == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_cannot_be_read_in_a_folder_is_left_out_and_named():
    os.mkfifo("rec/pipe.wav")
    Path("rec/phone.m4a").write_bytes(b"")
    Path("rec/gone.wav").symlink_to("nowhere.wav")
    told: list[str] = []
    jobs = plan_files(paths("rec"), None, Path("out"), on_message=told.append)
    assert [job.source.name for job in jobs] == ["[1].wav", "a.wav", "b.flac", "gone.wav", "c.wav"]
    (line,) = told
    assert "1 m4a not readable here" in line
    assert "rec/pipe.wav is no regular file" in line
