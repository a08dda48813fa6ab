from pathlib import Path

import pytest

from aasvc_cli.config.settings import Config, FeatureConfig, MelConfig
from aasvc_cli.data.corpus import find_speakers, locate, scan_speaker
from aasvc_cli.data.manifest import (
    SETS,
    UNASSIGNED,
    Manifest,
    ParallelPair,
    list_prepared,
    read_manifest,
    suggest,
    write_manifest,
)
from aasvc_cli.data.matching import match
from aasvc_cli.errors import ConfigError, DataError
from aasvc_cli.storage.home import Home


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def lay_out(root: Path, speakers: dict[str, dict[str, list[str]]]) -> Path:
    """A corpus of empty files: speaker -> folder of a set -> names."""
    for speaker, sets in speakers.items():
        for folder, names in sets.items():
            (root / speaker / "wav" / folder).mkdir(parents=True)
            touch(*(root / speaker / "wav" / folder / name for name in names))
    return root


@pytest.fixture
def captain(tmp_path: Path) -> Path:
    """Two speakers in the Hi-Fi-CAPTAIN layout, each with a recording that the other does not have."""
    sets = {"train_parallel": ["a.wav", "b.wav"], "train_non_parallel": ["x.wav"], "dev": ["c.wav"], "eval": ["d.wav"]}
    root = lay_out(
        tmp_path / "data" / "ja-JP",
        {
            "male": sets | {"train_parallel": ["a.wav", "b.wav", "only-male.wav"]},
            "female": sets | {"dev": ["c.flac", "only-female.wav"]},
        },
    )
    (root / "male" / "text").mkdir()
    (root / "male" / "text" / "train_parallel.txt").write_text("a こんにちは 世界\nb\tさようなら\n\n", encoding="utf-8")
    return root


class TestLayout:
    def test_speakers_are_found_from_the_corpus_its_parents_and_with_other_folders_about(self, captain):
        (captain / "licence").mkdir()
        for root in (captain, captain.parent, captain.parent.parent):
            assert find_speakers(root) == {"male": captain / "male", "female": captain / "female"}

    def test_several_languages_are_listed(self, captain):
        lay_out(captain.parent / "en-US", {"male": {"train_parallel": []}, "female": {"train_parallel": []}})
        with pytest.raises(DataError, match=r"2 corpora \(en-US, ja-JP\); choose one, e\.g\. aasvc prepare .*en-US"):
            find_speakers(captain.parent)

    def test_a_folder_without_speakers_says_what_was_expected(self, tmp_path):
        with pytest.raises(DataError, match=r"found no speakers; expected <speaker>/wav/train_parallel.*--source DIR"):
            find_speakers(tmp_path)

    def test_sets_are_named_ours_and_non_parallel_data_is_left_alone(self, captain):
        sets = scan_speaker(captain / "male").sets
        assert {name: [path.name for path in paths] for name, paths in sets.items()} == {
            "train": ["a.wav", "b.wav", "only-male.wav"],
            "dev": ["c.wav"],
            "eval": ["d.wav"],
        }

    def test_pairs_are_matched_set_by_set_with_their_sentences(self, home, captain):
        matching = match(*locate(home, captain, None, None))
        pairs, findings = matching.pairs, matching.findings
        assert [(name, pair.utterance_id, pair.text) for name, pair in pairs] == [
            ("train", "a", "こんにちは 世界"),
            ("train", "b", "さようなら"),
            ("dev", "c", None),
            ("eval", "d", None),
        ]
        assert all(pair.source.is_absolute() and pair.target.is_absolute() for _, pair in pairs)
        assert pairs[2][1].target.name == "c.flac"
        assert [(f.utterance_id, f.set, f.side, f.code, f.excluded) for f in findings] == [
            ("only-male", "train", "target", "no_partner", True),
            ("only-female", "dev", "source", "no_partner", True),
        ]

    def test_a_recording_in_another_set_is_no_partner(self, home, tmp_path):
        lay_out(tmp_path, {"a": {"train": ["1.wav", "2.wav"], "dev": []}, "b": {"train": ["1.wav"], "dev": ["2.wav"]}})
        matching = match(*locate(home, tmp_path, "a", "b"))
        pairs, findings = matching.pairs, matching.findings
        assert [pair.utterance_id for _, pair in pairs] == ["1"]
        assert [(f.set, f.side) for f in findings] == [("train", "target"), ("dev", "source")]


class TestSpeakers:
    def test_male_to_female_is_the_direction_of_the_recipe(self, home, captain):
        source, target = locate(home, captain, None, None)
        assert (source.speaker, target.speaker) == ("male", "female")

    def test_the_other_of_two_speakers_need_not_be_named(self, home, captain):
        for source, target in ((None, "male"), ("female", None)):
            assert [each.speaker for each in locate(home, captain, source, target)] == ["female", "male"]

    def test_of_other_names_the_direction_must_be_given(self, home, tmp_path):
        lay_out(tmp_path, {name: {"train": ["1.wav"]} for name in ("bdl", "clb")})
        with pytest.raises(DataError, match="holds the speakers bdl, clb; choose with --source and --target"):
            locate(home, tmp_path, None, None)

    def test_a_misspelt_speaker_gets_a_suggestion(self, home, captain):
        with pytest.raises(DataError, match="no speaker named femal; did you mean female"):
            locate(home, captain, "male", "femal")

    def test_a_folder_is_no_speaker_of_the_only_corpus(self, home, captain, tmp_path):
        home.corpora.mkdir(parents=True)
        (home.corpora / "mine").symlink_to(captain.parent)
        lay_out(tmp_path, {"me": {"train": ["1.wav"]}})
        mine, gone = tmp_path / "me", tmp_path / "gone"
        with pytest.raises(DataError, match=rf"^{gone}: no such folder \(--target\)$"):
            locate(home, None, mine, gone)
        with pytest.raises(DataError, match=rf"^--source {mine}: .* add --target DIR$"):
            locate(home, None, mine, None)
        with pytest.raises(DataError, match=rf"^--target {mine}: .* add --source DIR$"):
            locate(home, None, None, mine)

    def test_of_many_names_a_few_are_suggested(self):
        known = [f"sentence{number}" for number in range(30)]
        assert suggest("x", known) == f"; there is: {', '.join(sorted(known)[:8])} and 22 more"
        assert suggest("sentence7", known) == "; did you mean sentence7?"

    def test_one_speaker_cannot_be_both(self, home, captain):
        with pytest.raises(DataError, match="same speaker"):
            locate(home, captain, "male", "male")


class TestCorpusNames:
    def test_a_name_is_looked_up_in_the_data_folder(self, home, captain):
        home.corpora.mkdir(parents=True)
        (home.corpora / "mine").symlink_to(captain.parent)
        for corpus in ("mine", None):  # the only one needs no name
            assert locate(home, corpus, None, None)[0].root == home.corpora / "mine" / "ja-JP" / "male"

    def test_speakers_of_the_only_corpus_need_no_corpus(self, home, captain):
        home.corpora.mkdir(parents=True)
        (home.corpora / "mine").symlink_to(captain.parent)
        assert [each.speaker for each in locate(home, None, "female", "male")] == ["female", "male"]

    def test_unknown_names_get_a_suggestion(self, home):
        (home.corpora / "demo").mkdir(parents=True)
        with pytest.raises(DataError, match="demmo: no such folder, and no corpus of that name; did you mean demo"):
            locate(home, "demmo", None, None)

    def test_without_arguments_the_choices_are_listed(self, home):
        with pytest.raises(DataError, match=r"aasvc prepare CORPUS.*aasvc download"):
            locate(home, None, None, None)

    def test_a_file_is_no_corpus(self, home, tmp_path):
        touch(tmp_path / "corpus.zip")
        with pytest.raises(DataError, match="is a file, expected the folder"):
            locate(home, tmp_path / "corpus.zip", None, None)


class TestTwoFolders:
    def test_recordings_are_matched_by_stem_at_any_depth(self, home, tmp_path):
        touch(
            tmp_path / "anna" / "wav" / "one" / "1.wav",
            tmp_path / "anna" / "wav" / "2.mp3",
            tmp_path / "bob" / "1.flac",
        )
        touch(
            tmp_path / "bob" / "deep" / "er" / "2.ogg", tmp_path / "bob" / "notes.txt", tmp_path / "bob" / ".hidden.wav"
        )
        source, target = locate(home, None, tmp_path / "anna" / "wav", str(tmp_path / "bob"))
        assert (source.speaker, target.speaker) == ("anna", "bob")
        matching = match(source, target)
        pairs, findings = matching.pairs, matching.findings
        assert [(name, pair.utterance_id, pair.source.name, pair.target.name) for name, pair in pairs] == [
            (UNASSIGNED, "1", "1.wav", "1.flac"),
            (UNASSIGNED, "2", "2.mp3", "2.ogg"),
        ]
        assert findings == []

    def test_names_that_differ_only_in_unicode_form_match(self, home, tmp_path):
        touch(tmp_path / "a" / "caf\u00e9.wav", tmp_path / "b" / "cafe\u0301.wav")
        pairs = match(*locate(home, None, tmp_path / "a", tmp_path / "b")).pairs
        assert [pair.utterance_id for _, pair in pairs] == ["caf\u00e9"]

    def test_a_name_that_is_there_twice_is_left_out_and_reported(self, home, tmp_path):
        touch(
            *(tmp_path / "a" / name for name in ("1.wav", "2.wav", "2.flac")),
            *(tmp_path / "b" / n for n in ("1.wav", "2.wav")),
        )
        matching = match(*locate(home, None, tmp_path / "a", tmp_path / "b"))
        pairs, findings = matching.pairs, matching.findings
        assert [pair.utterance_id for _, pair in pairs] == ["1"]
        assert [(f.utterance_id, f.side, f.code, f.excluded) for f in findings] == [("2", "source", "duplicate", True)]
        assert "2 source recordings have this name" in findings[0].message

    def test_speakers_in_the_known_layout_keep_their_sets(self, home, captain):
        source, _ = locate(home, None, captain / "male", captain / "female")
        assert set(source.sets) == set(SETS)

    def test_equal_folder_names_are_distinguished(self, home, tmp_path):
        touch(tmp_path / "a" / "speech" / "1.wav", tmp_path / "b" / "speech" / "1.wav")
        both = locate(home, None, tmp_path / "a" / "speech", tmp_path / "b" / "speech")
        assert [each.speaker for each in both] == ["a-speech", "b-speech"]

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            ([], "b: no such folder"),
            (["b"], "b: is a file, expected the folder with the target recordings"),
            (["b/notes.txt"], r"b: holds no recordings; expected .*flac.*wav.*, found only \.txt"),
            (
                ["b/another.wav", "b/other.wav"],
                r"no recording in .*a \(1 files, e\.g\. 1\.wav\) has a partner .*another\.wav",
            ),
        ],
    )
    def test_folders_that_cannot_be_matched(self, home, tmp_path, make, message):
        touch(tmp_path / "a" / "1.wav", *(tmp_path / name for name in make))
        with pytest.raises(DataError, match=message):
            match(*locate(home, None, tmp_path / "a", tmp_path / "b"))

    def test_one_folder_cannot_be_both(self, home, tmp_path):
        touch(tmp_path / "a" / "1.wav")
        with pytest.raises(DataError, match="same folder"):
            locate(home, None, tmp_path / "a", tmp_path / "a" / ".." / "a")


def manifest(name: str = "anna_bob") -> Manifest:
    pairs = tuple(
        ParallelPair(f"u{i}", Path(f"/a/{i}.wav"), Path(f"/b/{i}.wav"), "文" if i else None, 10 + i, 20, 1.5, 2.25)
        for i in range(4)
    )
    config = Config(name="mine", features=FeatureConfig(source="mcep", mel=MelConfig(n_mels=40)))
    sets = {"train": pairs[:2], "dev": pairs[2:3], "eval": pairs[3:]}
    return Manifest(name, "anna", "bob", config, sets, [("bad", "train", "silent: is silent")], Path("/a"), Path("/b"))


class TestManifest:
    def test_survives_the_disk(self, home: Home):
        write_manifest(home, manifest())
        assert read_manifest(home, "anna_bob") == manifest()

    def test_a_moved_data_folder_finds_its_own_recordings(self, home: Home):
        inside, outside = home.corpora / "demo" / "a.wav", Path("/b/a.wav")
        pair = ParallelPair("a", inside, outside)
        before = Manifest(
            "a_b", "a", "b", Config(), {"train": (pair,), "dev": (), "eval": ()}, [], inside.parent, outside.parent
        )
        write_manifest(home, before)
        home.root.rename(home.root.with_name("moved"))
        moved = Home(home.root.with_name("moved"))
        after = read_manifest(moved)
        assert (after.sets["train"][0].source, after.source_root) == (
            moved.corpora / "demo" / "a.wav",
            moved.corpora / "demo",
        )
        assert (after.sets["train"][0].target, after.target_root) == (outside, outside.parent)

    def test_the_one_prepared_last_is_the_default_whatever_the_file_times(self, home):
        write_manifest(home, manifest("second"))
        write_manifest(home, manifest("first"))
        write_manifest(home, manifest("second"))
        (home.prepared / "first" / "manifest.json").touch()
        assert read_manifest(home, None).name == "second"
        assert list_prepared(home) == ["first", "second"]

    def test_without_any_the_next_command_is_shown(self, home):
        with pytest.raises(DataError, match=r"nothing is prepared in .*; run: aasvc prepare"):
            read_manifest(home, None)

    @pytest.mark.parametrize(("name", "hint"), [("anna_bop", "did you mean anna_bob"), ("zzz", "there is: anna_bob")])
    def test_unknown_names_get_a_suggestion(self, home, name, hint):
        write_manifest(home, manifest())
        with pytest.raises(DataError, match=hint):
            read_manifest(home, name)

    @pytest.mark.parametrize("damage", ["", "[]", "{}", '{"name": 3', '{"name": "a", "sets": {}}'])
    def test_damaged_manifests_are_refused_by_name(self, home, damage):
        path = write_manifest(home, manifest())
        path.write_text(damage)
        with pytest.raises(DataError, match=r"manifest\.json"):
            read_manifest(home, "anna_bob")

    def test_a_configuration_of_another_version_is_refused_by_its_key(self, home):
        path = write_manifest(home, manifest())
        path.write_text(path.read_text().replace('"n_mels"', '"n_melz"'))
        with pytest.raises(ConfigError, match=r"features\.mel\.n_melz: unknown key"):
            read_manifest(home, "anna_bob")

    def test_a_damaged_note_of_the_last_one_is_refused(self, home):
        write_manifest(home, manifest())
        (home.prepared / "latest.json").write_text("[]")
        with pytest.raises(DataError, match=r"latest\.json"):
            read_manifest(home, None)
