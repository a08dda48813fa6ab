import numpy as np
import pytest
import soundfile

from aasvc_cli.audio.files import list_sounds, read_audio
from aasvc_cli.audio.streams import AudioFile
from aasvc_cli.errors import AudioError

RATE = 16000


def voice(seconds: float = 1.0, pitch: float = 120.0) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    return 0.1 * sum(np.sin(2 * np.pi * k * pitch * t) / k for k in range(1, 9))


@pytest.fixture
def read(tmp_path):
    """Write samples (n,) or (n, C), read them in both ways, and return them with the remarks."""

    def call(samples: np.ndarray, subtype: str = "FLOAT") -> tuple[np.ndarray, dict[str, str]]:
        soundfile.write(tmp_path / "a.wav", samples, RATE, subtype=subtype)
        remarks: dict[str, str] = {}
        wave, _ = read_audio(tmp_path / "a.wav", lambda remark: remarks.update({remark.code: remark.message}))
        file = AudioFile(tmp_path / "a.wav")
        np.testing.assert_allclose(np.concatenate(list(file.blocks())), wave, atol=1e-6)
        assert list(file.remarks) == list(remarks.values())
        return wave, remarks

    return call


class TestChannels:
    def test_equal_channels_are_averaged_without_a_word(self, read):
        wave, remarks = read(np.stack([voice(), voice()], axis=1))
        np.testing.assert_allclose(wave, voice(), atol=1e-6)
        assert remarks == {}

    def test_channels_of_a_room_are_averaged(self, read):
        rng = np.random.default_rng(0)
        both = voice()[:, None] + 0.02 * rng.standard_normal((RATE, 2))
        wave, remarks = read(both)
        np.testing.assert_allclose(wave, both.mean(axis=1), atol=1e-3)
        assert remarks == {}

    @pytest.mark.parametrize("other", [-1.0, -0.8, -1.2])
    def test_inverted_channels_do_not_cancel(self, read, other):
        both = np.stack([voice(), other * np.roll(voice(), 1)], axis=1)
        wave, remarks = read(both)
        loudest = int(abs(other) > 1)
        np.testing.assert_allclose(wave, both[:, loudest], atol=1e-6)
        assert remarks["channels"].startswith("the two channels are inverted")
        assert remarks["channels"].endswith(f"channel {loudest + 1} is taken")

    @pytest.mark.parametrize("silent", [0, 1])
    def test_a_silent_channel_does_not_halve_the_level(self, read, silent):
        both = np.stack([voice(), voice()], axis=1)
        both[:, silent] = 1e-4 * np.random.default_rng(0).standard_normal(RATE)
        wave, remarks = read(both)
        np.testing.assert_allclose(wave, both[:, 1 - silent], atol=1e-6)
        assert remarks == {"channels": f"channel {silent + 1} is silent; channel {2 - silent} taken"}

    def test_of_many_channels_those_that_hold_sound_are_averaged(self, read):
        many = np.zeros((RATE, 6))
        many[:, 0] = many[:, 3] = voice()
        wave, remarks = read(many)
        np.testing.assert_allclose(wave, voice(), atol=1e-6)
        assert remarks == {"channels": "channel 2, 3, 5, 6 are silent; channel 1, 4 taken"}


class TestOffset:
    @pytest.mark.parametrize("offset", [0.0, 0.004, 0.03, -0.2])
    @pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
    def test_an_offset_changes_nothing(self, read, offset, subtype):
        wave, remarks = read(voice() + offset, subtype)
        np.testing.assert_allclose(wave, voice(), atol=1e-4)
        assert ("offset" in remarks) == (abs(offset) >= 0.01)

    def test_what_nobody_hears_nor_measures_stays(self, read):
        slight = (voice() + 1e-3).astype(np.float32)
        np.testing.assert_array_equal(read(slight)[0], slight)

    def test_the_mean_of_a_short_noise_is_no_offset(self, read):
        noise = np.random.default_rng(1).uniform(-0.1, 0.1, 500).astype(np.float32)
        np.testing.assert_array_equal(read(noise)[0], noise)

    def test_each_channel_may_have_its_own(self, read):
        wave, _ = read(np.stack([voice() + 0.1, voice() - 0.3], axis=1))
        np.testing.assert_allclose(wave, voice(), atol=1e-5)


class TestScale:
    def test_floats_above_full_scale_are_scaled_down(self, read):
        loud = voice() / np.abs(voice()).max() * 1.6
        wave, remarks = read(loud)
        np.testing.assert_allclose(wave, loud / 1.6, atol=1e-6)
        assert remarks == {"scaled": "peak 1.6, above full scale; scaled down to 1.0"}

    @pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
    def test_integers_in_a_float_file_are_refused_with_what_to_do(self, read, subtype):
        with pytest.raises(AudioError, match=r"a\.wav: far louder than full scale \(peak \d+\): .*not scaled to 1\.0"):
            read(voice() * 32768, subtype)


class TestListing:
    def test_links_are_followed_and_no_folder_is_visited_twice(self, tmp_path):
        (tmp_path / "a" / "z").mkdir(parents=True)
        (tmp_path / "elsewhere").mkdir()
        for path in ("a/z/1.wav", "a/2.WAV", "elsewhere/3.wav"):
            (tmp_path / path).touch()
        (tmp_path / "a" / "again").symlink_to(".")
        (tmp_path / "a" / "before").symlink_to("z")
        (tmp_path / "a" / "z" / "up").symlink_to("..")
        (tmp_path / "a" / "z" / "out").symlink_to(tmp_path / "elsewhere")
        listed = [path.relative_to(tmp_path / "a").as_posix() for path in list_sounds(tmp_path / "a").recordings]
        assert listed == ["2.WAV", "z/1.wav", "z/out/3.wav"]

    def test_resource_forks_and_notes_of_systems_are_no_recordings(self, tmp_path):
        for path in ("._1.wav", "1.wav", ".AppleDouble/1.wav", "__MACOSX/1.wav", "@eaDir/1.wav"):
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).touch()
        assert [path.name for path in list_sounds(tmp_path).recordings] == ["1.wav"]

    def test_other_sounds_are_counted_with_what_to_do(self, tmp_path):
        for name in ("1.m4a", "2.M4A", "3.wma", "4.wav", "notes.txt"):
            (tmp_path / name).touch()
        listing = list_sounds(tmp_path)
        assert [path.name for path in listing.others] == ["1.m4a", "2.M4A", "3.wma"]
        assert listing.advice.startswith("2 m4a, 1 wma not readable here; convert each to wav first: ffmpeg -i ")
