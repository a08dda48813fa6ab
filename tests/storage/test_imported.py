"""Published models in our form: made once, and nothing left of what was killed."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from aasvc_cli.errors import ModelError
from aasvc_cli.storage.home import Home
from aasvc_cli.storage.imported import import_once


def write(folder: Path, _: object) -> None:
    (folder / "done").write_text("1")


def read(folder: Path) -> str:
    if (content := (folder / "done").read_text()) != "1":
        raise ModelError(f"{folder}: damaged")
    return content


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "config.yml").write_text("x")
    return tmp_path / "published" / "config.yml"


def test_a_damaged_form_is_made_anew_once(home: Home, source: Path):
    told: list[str] = []
    for _ in range(2):
        assert import_once(home, source.parent, [source], write, read, on_damage=lambda: told.append("damaged")) == "1"
        assert told == []
    (damaged,) = home.imported.glob("published-*/done")
    damaged.write_text("0")
    assert import_once(home, source.parent, [source], write, read, on_damage=lambda: told.append("damaged")) == "1"
    assert told == ["damaged"] and damaged.read_text() == "1"

    def refuse(folder: Path) -> str:
        raise ModelError(f"{folder}: not this one either")

    with pytest.raises(ModelError, match="not this one either"):
        import_once(home, source.parent, [source], write, refuse)


@pytest.mark.unprivileged
def test_a_damaged_form_that_cannot_be_replaced_is_done_without(home: Home, source: Path):
    import_once(home, source.parent, [source], write, read)
    (damaged,) = home.imported.glob("published-*/done")
    damaged.write_text("0")
    home.imported.chmod(0o555)
    try:
        assert import_once(home, source.parent, [source], write, read) is None
    finally:
        home.imported.chmod(0o755)


def test_what_killed_imports_left_is_swept_by_the_next_import_of_anything(home: Home, source: Path):
    left, running = (home.imported / f".{name}.abc.part" for name in ("killed-0123", "running-4567"))
    for folder in (left, running):
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(b"half")
    with FileLock(home.imported / ".running-4567.lock"):
        found = import_once(home, source.parent, [source], write, lambda place: sorted(place.iterdir()))
    assert found is not None
    assert [path.name for path in found] == ["done"]
    assert not left.exists()
    assert running.exists(), "another process is at it"
