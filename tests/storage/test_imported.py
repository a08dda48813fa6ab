"""Published models in our form: made once, and nothing left of what was killed."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock

from aasvc_cli.storage.home import Home
from aasvc_cli.storage.imported import import_once


def test_what_killed_imports_left_is_swept_by_the_next_import_of_anything(home: Home, tmp_path: Path):
    (tmp_path / "published").mkdir()
    source = tmp_path / "published" / "config.yml"
    source.write_text("x")
    left, running = (home.imported / f".{name}.abc.part" for name in ("killed-0123", "running-4567"))
    for folder in (left, running):
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(b"half")
    with FileLock(home.imported / ".running-4567.lock"):
        place = import_once(home, source.parent, [source], lambda folder, _: (folder / "done").write_text("1") and None)
    assert place is not None
    assert sorted(path.name for path in place.iterdir()) == ["done"]
    assert not left.exists()
    assert running.exists(), "another process is at it"
