"""Paths in the data folder are kept so that it can be moved."""

from __future__ import annotations

from pathlib import Path

import pytest

from aasvc_cli.storage.home import Home


def test_what_lies_in_the_data_folder_moves_with_it(tmp_path: Path):
    here, there = Home(tmp_path / "here"), Home(tmp_path / "there")
    for name in ("corpora/a/wav/1.wav", "prepared", "."):
        assert there.found(here.kept(here.root / name)) == there.root / name


@pytest.mark.parametrize("name", ["here-too/1.wav", "here/../elsewhere/1.wav", "elsewhere/here/1.wav"])
def test_what_lies_elsewhere_stays_where_it_is(tmp_path: Path, name: str):
    here, there = Home(tmp_path / "here"), Home(tmp_path / "there")
    assert there.found(here.kept(tmp_path / name)) == tmp_path / name


def test_a_data_folder_behind_a_link_is_known_by_both_of_its_names(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    home = Home(tmp_path / "link")
    assert home.kept(tmp_path / "real" / "a.wav") == home.kept(tmp_path / "link" / "a.wav") == "a.wav"
