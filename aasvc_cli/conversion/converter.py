"""Convert sound to sound with a voice and a vocoder: the core of ``aasvc convert``, and the library.

A recording is anything that can be read by blocks, any number of times, so that an hour of speech needs no more memory
than a minute. A short one without long pauses is converted at once; others are cut at their pauses
(:mod:`aasvc_cli.audio.pauses`), the pieces are converted in batches, and the pauses between them are kept.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from aasvc_cli.audio.files import check_header
from aasvc_cli.audio.mel import n_frames
from aasvc_cli.audio.pauses import WHOLE_SECONDS, LevelMeter, Piece, fade, find_pieces
from aasvc_cli.audio.resampling import resample
from aasvc_cli.conversion.voice import Utterance, Voice, find_voice, is_exported, load_voice
from aasvc_cli.errors import AudioError, ConfigError, DataError, ModelError
from aasvc_cli.features.folder import check_length, part
from aasvc_cli.features.stats import FeatureStats, RunningStats
from aasvc_cli.storage.home import Home, find_home
from aasvc_cli.vocoder.folder import GRIFFIN_LIM, find_vocoder_of

if TYPE_CHECKING:
    from aasvc_cli.conversion.exported import ExportedVocoder, ExportedVoice
    from aasvc_cli.vocoder.build import Vocoder

Wave = npt.NDArray[np.float32]
Mel = npt.NDArray[np.float32]
Given = tuple[npt.NDArray[np.float32], float]
"""Features that another program wrote, (T, D), and their frames per second."""
OnProgress = Callable[[int, int], None]
OnMessage = Callable[[str], None]

DEFAULT_SEED = 1
"""The rhythm is drawn with it, for each recording anew, so results depend neither on the day nor on the order."""
MOST_SEED = 2**62
"""Each piece of a recording has a seed of its own, counted up from that of the first, which 64 bits have to hold."""
PEAK = 0.99
"""Results that go beyond full scale are scaled down to this peak instead of being clipped; others stay as they are."""
FULL_SCALE = 32767 / 32768
"""What 16 bits can hold."""
UNLIKE = "usual up to"
"""Part of the message that a recording is unlike those of the training."""
_SAME_SPEAKER = 1.01
"""How far from a speaker a recording may lie, relative to the farthest of the training recordings. Held-out
ones of three synthetic speakers lie at 0.2 to 0.85 times that distance, those of seven others at 0.5 to 1.7 times."""
BATCH_PIECES = 8
BATCH_FRAMES_SQUARED = 4_000_000
"""Limit of pieces times the square of their longest length in frames, in a batch; bounds the memory of attention."""
MOST_PADDING = 1.25
"""Length of a batch over the mean length of what is in it."""
_BLOCK = 1 << 16


class Recording(Protocol):
    """Mono samples that can be read more than once."""

    @property
    def name(self) -> str:
        """Its name in messages."""
        ...

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        ...

    def blocks(self) -> Iterator[Wave]:
        """The samples in order, (n,) float32 each, from the start."""
        ...


@dataclass(frozen=True)
class ConvertOptions:
    """How to convert, whatever the recording.

    Attributes:
        seed: decides the rhythm of models that draw it, and the noise of vocoders that draw it; the same seed gives the
            same result
        noise_scale: freedom of the rhythm, 0 for the most likely one; None for the model's own
        speed: 2 speaks twice as fast

    Raises:
        DataError: one of them is out of its range, or not finite.
    """

    seed: int = DEFAULT_SEED
    noise_scale: float | None = None
    speed: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.seed <= MOST_SEED:
            raise DataError(f"seed {self.seed}: expected a whole number from 0 to {MOST_SEED}")
        if not (math.isfinite(self.speed) and self.speed > 0):
            raise DataError(f"speed {self.speed}: expected a finite number above 0; 1 is the speed of the model")
        if self.noise_scale is not None and not (math.isfinite(self.noise_scale) and self.noise_scale >= 0):
            raise DataError(
                f"noise scale {self.noise_scale}: expected a finite number, 0 or more; 0 is the likeliest rhythm"
            )


@dataclass(frozen=True, eq=False)
class Converted:
    """One converted recording, or a part of a long one.

    Attributes:
        wave: (n,) float32, at most full scale
        sample_rate: in Hz
        log_mel: (T, M) float32, not normalised, before the vocoder. Of a long recording, those of its pieces one after
            the other, without the pauses between them
        durations: (K,) int64, how many (stacked) target frames each token of the source got
        gain: what the vocoder's output was multiplied with to avoid clipping; 1 if it wasn't. Of a long recording, the
            least of its pieces, each of which has its own
        pieces: how many utterances it was converted as; 0 for a pause
    """

    wave: Wave
    sample_rate: int
    log_mel: Mel
    durations: npt.NDArray[np.int64]
    gain: float = 1.0
    pieces: int = 1


class Converter:
    """A voice and a vocoder, loaded once and used for any number of recordings.

    Nothing in it changes by converting, so several threads may use one.
    """

    def __init__(
        self, voice: Voice | ExportedVoice, vocoder: Vocoder | ExportedVocoder, vocoder_name: str = GRIFFIN_LIM
    ) -> None:
        self.voice = voice
        self.vocoder = vocoder
        self.vocoder_name = vocoder_name

    @classmethod
    def load(
        cls,
        model: str | Path | None = None,
        *,
        home: Home | None = None,
        device: str = "auto",
        vocoder: str | None = None,
        source_stats: Path | None = None,
        data: str | None = None,
        on_message: OnMessage | None = None,
    ) -> Converter:
        """Find a voice by name and load it.

        Args:
            model: a tag or a full name of a run, or a folder, ours or published; None for the bundled voice
            home: the data folder; None for the user's own
            vocoder: a name or a folder, or ``griffin-lim``; None for the one that goes with the voice, else the
                universal one where it fits, else Griffin-Lim
            source_stats: statistics of the source speaker, in place of those of the model folder
            data: a prepared set of the source speaker, where the model folder has no statistics of that speaker
            on_message: told what was chosen for want of something better

        Raises:
            ModelError, ConfigError, DataError: nothing of that name, or it cannot be used.
        """
        home, say = home or find_home(), on_message or _ignore
        folder = find_voice(home, model)
        if is_exported(folder):
            from aasvc_cli.conversion.exported import load_exported

            spoken = load_exported(folder, device, vocoder=vocoder, source_stats=source_stats, data=data)
            return cls(*spoken, spoken[1].name)
        from aasvc_cli.vocoder.build import build_vocoder, default_vocoder

        voice = load_voice(folder, device, home=home, source_stats=source_stats, data=data, on_message=say)
        mel = voice.config.features.mel
        if vocoder is not None:
            return cls(voice, build_vocoder(vocoder, mel, home=home, device=voice.device), vocoder)
        own = voice.card.get("vocoder")
        if isinstance(own, str) and own not in ("", GRIFFIN_LIM):
            try:
                place = find_vocoder_of(home, folder, own)
                return cls(voice, build_vocoder(place, mel, home=home, device=voice.device), own)
            except (ModelError, ConfigError) as error:
                say(f"warning: using {default_vocoder(mel)} instead of the vocoder of this model: {error}")
        name = default_vocoder(mel)
        return cls(voice, build_vocoder(name, mel, device=voice.device), name)

    @property
    def sample_rate(self) -> int:
        """Of the results, in Hz."""
        return self.vocoder.sample_rate

    def convert(
        self,
        wave: npt.NDArray[Any],
        sample_rate: int,
        *,
        seed: int = DEFAULT_SEED,
        noise_scale: float | None = None,
        speed: float = 1.0,
        name: str = "the recording",
        features: Given | None = None,
    ) -> Converted:
        """Convert one recording.

        Args:
            wave: (n,) samples, or (n, channels), which are averaged. Floats have their full scale at 1.0; int8, uint8,
                int16 and int32 have that of their type, as soundfile reads and writes them
            sample_rate: any, in Hz
            seed, noise_scale, speed: as in :class:`ConvertOptions`
            name: how messages call the recording
            features: of the recording, (T, D) and their frames per second, for a voice that was trained on features of
                another program

        Raises:
            AudioError: no samples, not finite, of another type, or too short for the model.
            DataError: an option is out of its range.
            ModelError: the model's result is not a finite spectrum.
        """
        options = ConvertOptions(seed, noise_scale, speed)
        recording = _Samples(name, sample_rate, _mono(wave, sample_rate, name))
        return _joined(list(self.stream(recording, options, features=features)))

    def convert_many(
        self,
        waves: Sequence[npt.NDArray[Any]],
        sample_rate: int,
        *,
        seed: int = DEFAULT_SEED,
        noise_scale: float | None = None,
        speed: float = 1.0,
    ) -> list[Converted]:
        """Convert several recordings, in batches; each result is that of :meth:`convert`.

        Lengths and durations are exactly the same, log-mels to float rounding (1e-5 in units of the target's scale).

        Args:
            waves: as for :meth:`convert`
            sample_rate, seed, noise_scale, speed: as for :meth:`convert`; each recording starts from the same seed

        Raises:
            AudioError, DataError, ModelError: as for :meth:`convert`; a message names the first bad recording by its
                place in the list.
        """
        options = ConvertOptions(seed, noise_scale, speed)
        recordings = [
            _Samples(name, sample_rate, _mono(wave, sample_rate, name))
            for name, wave in ((f"recording {index}", wave) for index, wave in enumerate(waves))
        ]
        results: dict[int, Converted] = {}
        whole: list[int] = []
        for index, recording in enumerate(recordings):
            pieces, n_samples = _find_pieces(sample_rate, [recording.samples])
            self._check_length(n_samples, sample_rate, recording.name)
            if pieces == [Piece(0, n_samples)]:
                whole.append(index)
                continue
            results[index] = _joined(list(self.stream(recording, options)))
        inputs = [self._inputs_of(recordings[index].samples, sample_rate) for index in whole]
        conversions = self._convert_sorted(inputs, [seed] * len(inputs), options)
        for index, conversion in zip(whole, conversions, strict=True):
            results[index] = self._speak(conversion, recordings[index].name, seed)
        return [results[index] for index in range(len(recordings))]

    def stream(
        self,
        recording: Recording,
        options: ConvertOptions = ConvertOptions(),
        *,
        features: Given | None = None,
        on_progress: OnProgress | None = None,
        on_message: OnMessage | None = None,
    ) -> Iterator[Converted]:
        """Convert a recording of any length, part by part, in bounded memory.

        The waves of all parts in order are the result. A recording of up to 20 s without a pause of a second is one
        part; pauses from a second on stay what they are, and a silent recording gives silence. Each piece has a seed of
        its own, counted up from the one of the options, so that nothing depends on what shares a batch.

        Args:
            recording: is read twice if it is longer than 20 s
            options: pauses that are kept are shortened by its speed, too
            features: as for :meth:`convert`
            on_progress: told (done, all) pieces of a long recording
            on_message: told where a long recording had to be cut without a pause, if it is silent, and if it sounds
                unlike those that the voice was trained on

        Raises:
            AudioError, DataError, ModelError: as for :meth:`convert`.
        """
        start, rest = _beginning(recording)
        if rest is None:  # it is not read again
            recording = _Samples(recording.name, recording.sample_rate, start)
        pieces, n_samples = _find_pieces(recording.sample_rate, itertools.chain([start], rest or ()))
        del start
        self._check_length(n_samples, recording.sample_rate, recording.name)
        if on_message:
            _say_how_cut(recording, pieces, on_message)
        if features is not None:
            check_length(len(features[0]), features[1], n_samples / recording.sample_rate, "features", recording.name)
        own = self._stats_of(recording, pieces, features) if self.voice.source_from_input and pieces else None
        rate = self.sample_rate / recording.sample_rate / options.speed
        if not pieces:  # a sample is left even at a speed that leaves none: nobody can read a recording without any
            rate = max(rate, 1.0 / n_samples)
        place, skipped = 0, 0  # in the recording, and in the pauses so far
        done = 0
        # pieces are read only as they are needed, at most a window at a time
        piece_inputs = self._inputs_of_pieces(recording, pieces, own, features)
        while window := list(itertools.islice(piece_inputs, BATCH_PIECES)):
            window_inputs = [inputs for _, inputs in window]
            if not done:
                self._compare(window_inputs, recording.name, on_message)
            seeds = [options.seed + done + index for index in range(len(window))]
            conversions = self._convert_sorted(window_inputs, seeds, options)
            for (piece, _), conversion, own_seed in zip(window, conversions, seeds, strict=True):
                yield from self._silence(skipped, skipped + piece.start - place, rate)
                skipped += piece.start - place
                spoken = self._speak(conversion, recording.name, own_seed)
                place = piece.stop
                done += 1
                wave = fade(spoken.wave, self.sample_rate, start=piece.start > 0, end=place < n_samples)
                yield dataclasses.replace(spoken, wave=wave)
                if on_progress:
                    on_progress(done, len(pieces))
        yield from self._silence(skipped, skipped + n_samples - place, rate)

    def _compare(self, inputs: Sequence[_Inputs], name: str, on_message: OnMessage | None) -> None:
        """Warn if a recording is far from those that the voice was trained on, judged by its first minute or two."""
        stats = self.voice.stats.source
        if on_message is None or stats.likeness is None or self.voice.source_from_input:
            return
        feature = np.concatenate([utterance.source for utterance in inputs])
        if len(self.voice.stats.speakers) > 1:
            self._compare_with_each(feature, name, on_message)
            return
        difference = stats.likeness.difference(feature, stats.mean, stats.scale)
        distance, limit = float(np.abs(difference).mean()), stats.likeness.limit
        if distance <= limit:
            return
        level = float(np.median(difference))
        if np.abs(difference - level).mean() <= limit / 2:
            what = f"is much {'louder' if level > 0 else 'quieter'} than the recordings this voice was trained on"
            advice = "bring it to their level"
        else:
            what = "sounds unlike the recordings this voice was trained on"
            advice = (
                "it converts one speaker, recorded in one way; to train your own voice: aasvc prepare --source YOU "
                "--target OTHER, then aasvc train"
            )
        on_message(f"{name}: {what} (distance {distance:.2f}, {UNLIKE} {limit:.2f}); {advice}")

    def _compare_with_each(self, feature: Mel, name: str, on_message: OnMessage) -> None:
        """Tell if a recording, (T, D) as the network is given it, is of none of the source speakers.

        It is if it lies farther from every speaker than the farthest of their training recordings does. Each speaker
        has a scale of their own: that of all would hide how they differ.
        """
        whole, nearest = self.voice.stats.source, ("", math.inf, 1.0)
        for speaker, own in self.voice.stats.speakers.items():
            if own.likeness is None:
                return
            difference = own.likeness.difference(feature, whole.mean, whole.scale) * (whole.scale / own.scale)
            distance = float(np.abs(difference).mean())
            if distance * nearest[2] < nearest[1] * own.likeness.reach:
                nearest = (speaker, distance, own.likeness.reach)
        speaker, distance, reach = nearest
        if distance > _SAME_SPEAKER * reach:
            on_message(
                f"{name}: sounds like none of the {len(self.voice.stats.speakers)} speakers this voice was trained on "
                f"(nearest is {speaker}: distance {distance:.2f}, {UNLIKE} {reach:.2f}); it is converted all the same, "
                "with the statistics of all of them"
            )

    def _silence(self, start: int, stop: int, rate: float) -> Iterator[Converted]:
        """A pause of the source, whose sample ``start`` counts all samples of pauses before it: these never drift."""
        left = round(stop * rate) - round(start * rate)
        n_mels = self.voice.config.features.mel.n_mels
        while left > 0:
            n = min(left, _BLOCK)
            left -= n
            yield Converted(
                wave=np.zeros(n, dtype=np.float32),
                sample_rate=self.sample_rate,
                log_mel=np.zeros((0, n_mels), dtype=np.float32),
                durations=np.zeros(0, dtype=np.int64),
                pieces=0,
            )

    def _check_length(self, n_samples: int, sample_rate: int, name: str) -> None:
        """Raise AudioError if a recording is too short for the model."""
        fewest, mel = self.voice.min_source_frames, self.voice.config.features.mel
        resampled = math.ceil(n_samples * mel.sample_rate / sample_rate)
        if n_frames(resampled, mel.hop_length) < fewest:
            needed = (fewest - 1) * mel.hop_length / mel.sample_rate
            raise AudioError(
                f"{name}: too short, {resampled / mel.sample_rate:.3f} s; this model converts {needed:.3f} s or more"
            )

    def _inputs_of(
        self,
        samples: Wave,
        sample_rate: int,
        own: tuple[FeatureStats, FeatureStats] | None = None,
        given: Given | None = None,
    ) -> _Inputs:
        """The inputs of the model for an utterance."""
        features, stats = self.voice.config.features, self.voice.stats
        samples = resample(samples, sample_rate, features.mel.sample_rate)
        # the duration predictor mostly takes the same feature
        kinds = (str(features.source), str(features.duration))
        extracted = {kind: self.voice.extract(kind, samples, given) for kind in set(kinds)}
        sides = (stats.source, stats.duration)
        if self.voice.source_from_input:
            sides = own or (stats_of(extracted[kinds[0]]), stats_of(extracted[kinds[1]]))
        source, duration = (side.normalise(extracted[kind]) for side, kind in zip(sides, kinds, strict=True))
        return _Inputs(source, duration)

    def _inputs_of_pieces(
        self,
        recording: Recording,
        pieces: Sequence[Piece],
        own: tuple[FeatureStats, FeatureStats] | None,
        features: Given | None,
    ) -> Iterator[tuple[Piece, _Inputs]]:
        for piece, samples in _read_pieces(recording, pieces):
            given = _given_for(piece, recording.sample_rate, features)
            yield piece, self._inputs_of(self._long_enough(samples, recording), recording.sample_rate, own, given)

    def _long_enough(self, samples: Wave, recording: Recording) -> Wave:
        """Extend a sound between two long pauses into them if it is shorter than the model's minimum."""
        mel = self.voice.config.features.mel
        needed = self.voice.min_source_frames * mel.hop_length / mel.sample_rate
        missing = math.ceil(needed * recording.sample_rate) - len(samples)
        return np.pad(samples, (0, missing)) if missing > 0 else samples

    def _stats_of(
        self, recording: Recording, pieces: Sequence[Piece], given: Given | None
    ) -> tuple[FeatureStats, FeatureStats]:
        """Statistics of a whole recording, for a model that knows none of its source speaker."""
        features = self.voice.config.features
        kinds = (str(features.source), str(features.duration))
        running = {kind: RunningStats() for kind in kinds}
        for piece, samples in _read_pieces(recording, pieces):
            part_of_it = _given_for(piece, recording.sample_rate, given)
            wave = resample(self._long_enough(samples, recording), recording.sample_rate, features.mel.sample_rate)
            for kind, statistics in running.items():
                statistics.update(self.voice.extract(kind, wave, part_of_it))
        return running[kinds[0]].result(), running[kinds[1]].result()

    def _convert_sorted(
        self, inputs: Sequence[_Inputs], seeds: Sequence[int], options: ConvertOptions
    ) -> list[Utterance]:
        """Convert utterances, those of about the same length in one batch."""
        order = sorted(range(len(inputs)), key=lambda index: len(inputs[index].source))
        results: dict[int, Utterance] = {}
        for batch in _batches(order, [len(utterance.source) for utterance in inputs]):
            conversions = self.voice.convert(
                [inputs[index].source for index in batch],
                [inputs[index].duration for index in batch],
                [seeds[index] for index in batch],
                noise_scale=options.noise_scale,
                speed=options.speed,
            )
            results.update(zip(batch, conversions, strict=True))
        return [results[index] for index in range(len(inputs))]

    def _speak(self, conversion: Utterance, name: str, seed: int) -> Converted:
        """The waveform of the converted mel."""
        # an unusual input can drive single bands far beyond any speech; one such burst would set the level of it all
        log_mel = self.voice.stats.target.restore(conversion.mel)
        if not np.isfinite(log_mel).all():
            raise ModelError(
                f"{self.voice.folder}: its result for {name} is not a finite spectrum; use another checkpoint or model"
            )
        spoken = self.voice.speak(self.vocoder, log_mel, seed)
        peak = float(np.abs(spoken).max())
        gain = PEAK / peak if peak > FULL_SCALE else 1.0
        return Converted(
            wave=spoken * np.float32(gain),
            sample_rate=self.sample_rate,
            log_mel=log_mel,
            durations=conversion.durations,
            gain=gain,
        )


@dataclass(frozen=True, eq=False)
class _Inputs:
    """The inputs of the model for one utterance, (S, D) each, normalised."""

    source: Mel
    duration: Mel


@dataclass(frozen=True, eq=False)
class _Samples:
    """A recording in memory."""

    name: str
    sample_rate: int
    samples: Wave

    def blocks(self) -> Iterator[Wave]:
        for start in range(0, len(self.samples), _BLOCK):
            yield self.samples[start : start + _BLOCK]


def _ignore(_: Any) -> None:
    """Default callback."""


def stats_of(feature: Mel) -> FeatureStats:
    """Statistics of one recording, for models that know nothing of their source speaker: (T, D)."""
    running = RunningStats()
    running.update(feature)
    return running.result()


def _say_how_cut(recording: Recording, pieces: Sequence[Piece], on_message: OnMessage) -> None:
    """Tell if there is no speech, and where speech had to be cut without a pause."""
    if not pieces:
        on_message(f"{recording.name}: holds no speech, so the result is silent")
    for piece in pieces:
        if piece.cuts_speech:
            at = piece.stop / recording.sample_rate
            on_message(f"{recording.name}: no pause to cut at before {at:.1f} s; cut at the quietest point")


def _find_pieces(sample_rate: int, blocks: Iterable[Wave]) -> tuple[list[Piece], int]:
    """Where a recording is cut, and how many samples it has."""
    meter = LevelMeter(sample_rate)
    for block in blocks:
        meter.add(block)
    return find_pieces(meter.levels(), meter.n_samples, sample_rate), meter.n_samples


def _beginning(recording: Recording) -> tuple[Wave, Iterator[Wave] | None]:
    """All of a short recording and None, or the beginning of a long one and the blocks that follow."""
    blocks = iter(recording.blocks())
    held: list[Wave] = []
    n = 0
    for block in blocks:
        held.append(block)
        n += len(block)
        if n > WHOLE_SECONDS * recording.sample_rate:
            return np.concatenate(held), blocks
    return held[0] if len(held) == 1 else np.concatenate([np.zeros(0, dtype=np.float32), *held]), None


def _read_pieces(recording: Recording, pieces: Iterable[Piece]) -> Iterator[tuple[Piece, Wave]]:
    """The samples of each piece, in one pass over the recording."""
    blocks = iter(recording.blocks())
    held = np.zeros(0, dtype=np.float32)
    place = 0  # of the first sample that is held
    for piece in pieces:
        while place + len(held) < piece.stop and (block := next(blocks, None)) is not None:
            # what lies before the piece is not needed any more
            drop = min(max(piece.start - place, 0), len(held))
            held = np.concatenate([held[drop:], block])
            place += drop
        yield piece, held[piece.start - place : piece.stop - place]


def _batches(order: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Utterances, by increasing length, that are worth a batch: little of it is padding, and attention has the room."""
    batch: list[int] = []
    frames = 0
    for index in order:
        longest, count = lengths[index], len(batch) + 1
        wasteful = count * longest > MOST_PADDING * (frames + longest)
        if batch and (count > BATCH_PIECES or count * longest**2 > BATCH_FRAMES_SQUARED or wasteful):
            yield batch
            batch, frames = [], 0
        batch.append(index)
        frames += longest
    if batch:
        yield batch


def _given_for(piece: Piece, sample_rate: int, given: Given | None) -> Given | None:
    """The part of a recording's features that belongs to a piece of it."""
    if given is None:
        return None
    features, rate = given
    return part(features, rate, piece.start / sample_rate, piece.stop / sample_rate), rate


def _joined(parts: Sequence[Converted]) -> Converted:
    if len(parts) == 1:
        return parts[0]
    return Converted(
        wave=np.concatenate([part.wave for part in parts]),
        sample_rate=parts[0].sample_rate,
        log_mel=np.concatenate([part.log_mel for part in parts]),
        durations=np.concatenate([part.durations for part in parts]),
        gain=min(part.gain for part in parts),
        pieces=sum(part.pieces for part in parts),
    )


def _mono(wave: npt.NDArray[Any], sample_rate: int, name: str) -> Wave:
    check_header(name, sample_rate)
    samples = _scaled(np.asarray(wave), name)
    if samples.ndim == 2:
        samples = samples.mean(axis=1) if samples.shape[1] else samples[:, :0].reshape(-1)
    if samples.ndim != 1 or not len(samples):
        raise AudioError(f"{name}: expected samples (n,) or (n, channels), found {np.shape(wave)}")
    if not np.isfinite(samples).all():
        raise AudioError(f"{name}: holds samples that are not numbers (NaN or infinite)")
    return samples


def _scaled(samples: npt.NDArray[Any], name: str) -> Wave:
    """Samples of any type that has a full scale, as floats of the same shape with theirs at 1.0."""
    kind, octets = samples.dtype.kind, samples.dtype.itemsize
    if kind == "f":
        return samples.astype(np.float32, copy=False)
    if (kind, octets) not in (("i", 1), ("u", 1), ("i", 2), ("i", 4)):
        # 64 bits mostly hold samples of 16, which arithmetic has widened
        raise AudioError(
            f"{name}: samples of type {samples.dtype}, whose full scale is not known; expected floats up to 1.0, int8, "
            "uint8, int16 or int32; divide 16-bit integers by 32768"
        )
    full_scale = np.float32(2.0 ** (8 * octets - 1))
    return samples.astype(np.float32) / full_scale - np.float32(kind == "u")
