"""Where recordings are cut, and how their pieces meet."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from aasvc_cli.audio import pauses as segments
from aasvc_cli.audio.pauses import LevelMeter, Piece, fade, find_pieces, silent_frames
from tests.examples import examples

RATE = 8000
EDGE = round(segments.EDGE_SECONDS * RATE)


def voice(seconds: float, level: float = 0.1) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * 150 * t) * (0.7 + 0.3 * np.sin(2 * np.pi * 4 * t))).astype(np.float32)


def silence(seconds: float, noise: float = 0.0) -> np.ndarray:
    return np.random.default_rng(0).normal(0, noise, round(seconds * RATE)).astype(np.float32)


def spoken(*lengths: float, noise: float = 0.0) -> np.ndarray:
    """Speech and pauses by turns, speech first."""
    parts = [voice(length) if index % 2 == 0 else silence(length) for index, length in enumerate(lengths)]
    sound = np.concatenate(parts)
    return sound + silence(len(sound) / RATE, noise)[: len(sound)]


def levels_of(sound: np.ndarray, block: int = 1000) -> np.ndarray:
    meter = LevelMeter(RATE)
    for start in range(0, len(sound), block):
        meter.add(sound[start : start + block])
    assert meter.n_samples == len(sound)
    return meter.levels()


def pieces_of(sound: np.ndarray) -> list[Piece]:
    return find_pieces(levels_of(sound), len(sound), RATE)


class TestLevels:
    def test_a_sine_of_full_scale_has_minus_three_decibels(self):
        sound = np.sin(2 * np.pi * 100 * np.arange(RATE) / RATE).astype(np.float32)  # one period per frame
        assert levels_of(sound) == pytest.approx(np.full(100, 10 * np.log10(0.5)), abs=1e-3)

    def test_an_offset_is_no_sound_and_digital_silence_has_a_level(self):
        assert levels_of(np.full(RATE, 0.5, np.float32)) == pytest.approx(np.full(100, segments.LOWEST_LEVEL))

    @examples(30, suppress_health_check=[HealthCheck.too_slow])
    @given(n=st.integers(0, 2000), block=st.integers(1, 700))
    def test_blocks_of_any_size_give_the_same_levels(self, n: int, block: int):
        sound = np.random.default_rng(n).normal(0, 0.1, n).astype(np.float32)
        assert np.array_equal(levels_of(sound, block), levels_of(sound, max(n, 1)))


class TestSilence:
    @pytest.mark.parametrize("noise", [0.0, 1e-4, 1e-3, 1e-2])
    @pytest.mark.parametrize("gain", [1.0, 0.1])
    def test_pauses_are_found_whatever_the_noise_and_the_level(self, noise: float, gain: float):
        sound = spoken(3, 1, 4, 2, 3, noise=noise) * np.float32(gain)
        silent = silent_frames(levels_of(sound))
        expected = np.concatenate([np.full(round(n * 100), index % 2 == 1) for index, n in enumerate((3, 1, 4, 2, 3))])
        assert np.mean(silent == expected) > 0.98

    def test_a_quiet_speaker_after_a_loud_one_is_not_silent(self):
        sound = np.concatenate([spoken(20, 1, 20, 1, 20), spoken(20, 1, 20, 1, 20, 1, 20) * np.float32(0.03)])
        silent = silent_frames(levels_of(sound))
        assert not silent[6300:8100].any()
        assert silent[8210:8290].all()

    def test_steady_noise_alone_is_not_called_silence_but_digital_silence_is(self):
        assert not silent_frames(levels_of(silence(30, noise=0.01))).any()
        assert silent_frames(levels_of(silence(30))).all()
        assert len(silent_frames(np.zeros(0))) == 0


class TestPieces:
    def test_long_pauses_separate_pieces_and_lie_between_them(self):
        sound = spoken(5, 2, 6, 1.5, 4, 3, 5)
        found = pieces_of(sound)
        starts, ends = [0, 7, 14.5, 21.5], [5, 13, 18.5, 26.5]
        for piece, start, end in zip(found, starts, ends, strict=True):
            assert piece.start == pytest.approx(start * RATE - EDGE * (start > 0), abs=RATE // 50)
            assert piece.stop == pytest.approx(min(end * RATE + EDGE, len(sound)), abs=RATE // 50)

    def test_short_pauses_stay_within_a_piece(self):
        assert pieces_of(spoken(3, 0.5, 3, 0.9, 3)) == [Piece(0, round(10.4 * RATE))]

    def test_a_piece_that_would_be_too_long_is_cut_in_its_longest_pause(self):
        first, second, _ = pieces_of(spoken(4, 0.3, 4, 0.6, 5, 0.3, 4, 1.5, 4))
        assert first.stop == second.start == pytest.approx(8.6 * RATE, abs=RATE // 50)
        assert not first.cuts_speech

    def test_without_any_pause_the_quietest_point_is_taken_and_told(self):
        sound = voice(21)
        dip = slice(round(10.0 * RATE), round(10.06 * RATE))
        sound[dip] *= np.float32(0.3)
        first, second = pieces_of(sound)
        assert dip.start <= first.stop <= dip.stop
        assert first.stop == second.start
        assert (first.cuts_speech, second.cuts_speech) == (True, False)

    def test_silence_at_the_ends_is_kept_out(self):
        sound = np.concatenate([silence(4), voice(5), silence(3)])
        (piece,) = pieces_of(sound)
        assert piece.start == pytest.approx(4 * RATE - EDGE, abs=RATE // 50)
        assert piece.stop == pytest.approx(9 * RATE + EDGE, abs=RATE // 50)

    def test_nothing_but_silence_has_no_pieces(self):
        assert pieces_of(np.zeros(0, np.float32)) == []
        for seconds in (0.5, 5, 19, 30):
            assert pieces_of(silence(seconds)) == []
            assert pieces_of(silence(seconds, noise=1e-3)) == [], "an empty room"

    def test_a_short_recording_is_one_piece_unless_a_pause_is_long(self):
        assert pieces_of(sound := spoken(9, 0.9, 9.5)) == [Piece(0, len(sound))]
        assert pieces_of(sound := np.concatenate([silence(0.9), voice(3), silence(0.9)])) == [Piece(0, len(sound))]
        assert len(pieces_of(spoken(4, 1.1, 4))) == 2

    @pytest.mark.parametrize("between", [(2, 0.5, 2), (8, 0.5, 8), (11, 0.5, 11), (2, 1.5, 2)])
    def test_short_pauses_at_the_ends_stay_with_the_speech_at_every_length(self, between: tuple[float, ...]):
        sound = np.concatenate([silence(0.9), spoken(*between), silence(0.9)])
        found = pieces_of(sound)
        assert (found[0].start, found[-1].stop) == (0, len(sound))

    @pytest.mark.parametrize("noise", [0.0, 1e-4, 1e-3])
    def test_long_pauses_are_kept_in_the_same_way_at_every_length(self, noise: float):
        """Speech of 2 s between pauses, in recordings below and above what may be converted as it is."""
        lengths = set()
        for pause in (1.5, 4, 8, 9.5, 15, 40):
            sound = np.concatenate([silence(pause), voice(2), silence(pause)]) + silence(2 * pause + 2, noise)
            (piece,) = pieces_of(sound)
            assert piece.start == pytest.approx(pause * RATE - EDGE, abs=RATE // 50)
            lengths.add(piece.stop - piece.start)
        assert max(lengths) - min(lengths) <= RATE // 25

    @examples(40, suppress_health_check=[HealthCheck.too_slow])
    @given(
        lengths=st.lists(st.floats(0.05, 30.0), min_size=1, max_size=9),
        noise=st.sampled_from([0.0, 1e-4]),
        leading=st.booleans(),
    )
    def test_no_speech_is_lost_none_is_doubled_and_no_piece_is_too_long(
        self, lengths: list[float], noise: float, leading: bool
    ):
        sound = spoken(*lengths, noise=noise)
        if leading:
            sound = np.concatenate([silence(2.0, noise), sound])
        found = pieces_of(sound)
        place = 0
        for piece in found:
            assert place <= piece.start < piece.stop <= len(sound)
            whole = len(sound) <= segments.WHOLE_SECONDS * RATE and piece == Piece(0, len(sound))
            assert whole or piece.stop - piece.start <= segments.LONGEST_PIECE_SECONDS * RATE + RATE // 100
            place = piece.stop
        covered = np.zeros(len(sound), dtype=bool)
        for piece in found:
            covered[piece.start : piece.stop] = True
        # the voice of these tests is never quieter than this
        assert not (np.abs(sound) > 0.03)[~covered].any()
        # a cut without a pause is made only where no pause could be used
        silent = silent_frames(levels_of(sound))
        for piece in found:
            if piece.cuts_speech:
                cut = piece.stop // 80
                runs = segments._runs(silent)
                assert not any(stop - start >= 20 and start + 2 <= cut <= stop - 2 for start, stop in runs)


class TestFades:
    def test_both_ends_reach_zero_and_the_middle_is_untouched(self):
        wave = np.ones(1000, np.float32)
        faded = fade(wave, RATE, start=True, end=True)
        assert faded[0] == 0
        assert faded[-1] == 0
        assert np.array_equal(faded[40:-40], wave[40:-40])
        assert (np.diff(faded[:41]) >= 0).all()
        assert np.array_equal(faded, faded[::-1])

    def test_a_fade_makes_no_step_beyond_its_own_slope(self):
        rng = np.random.default_rng(1)
        wave = np.cumsum(rng.normal(0, 0.01, 2000)).astype(np.float32)
        faded = fade(wave, RATE, start=True, end=True)
        slope = np.pi / 2 / (segments.FADE_SECONDS * RATE) * np.abs(wave).max()
        assert np.abs(np.diff(faded)).max() <= np.abs(np.diff(wave)).max() + slope

    @pytest.mark.parametrize("n", [0, 1, 2, 7, 79])
    def test_short_waves_keep_their_length(self, n: int):
        assert len(fade(np.ones(n, np.float32), RATE, start=True, end=True)) == n

    def test_without_an_end_to_fade_the_wave_is_the_same(self):
        wave = np.ones(100, np.float32)
        assert fade(wave, RATE, start=False, end=False) is wave
