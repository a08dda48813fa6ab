"""The content encoder's training: crops, steps, continuation, and the projection against what it must find."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from aasvc_cli.config.reading import parse_config
from aasvc_cli.config.settings import Config
from aasvc_cli.errors import DataError
from aasvc_cli.training import content_trainer
from aasvc_cli.training.content_trainer import ContentTrainer, CropSource, Example, Projection, Version, discriminant

CPU = torch.device("cpu")
N_MELS, N_FINE, CHANNELS = 80, 20, 5


def config(**train: object) -> Config:
    sizes = {"stem": 8, "width": 12, "hidden": 16, "n_blocks": 1, "kernel": 3, "melody_width": 8, "melody_blocks": 1}
    content = sizes | {"crop_frames": 16}
    tree = {"content": content, "train": {"lr": 3e-3, "warmup_steps": 5, "batch_size": 4, "grad_norm": 1.0, **train}}
    return parse_config(tree, "test")


def example(group: str = "a", frames: int = 40, seed: int = 0, stretch: int = 1) -> Example:
    """What is wanted is the place in time, and so is F0; a version is ``stretch`` times as long."""
    random, count = np.random.default_rng(seed), frames * stretch
    levels, fine_levels = (random.uniform(size=(2 * count, bands)).astype(np.float16) for bands in (N_MELS, N_FINE))
    place = np.arange(frames, dtype=np.float16)
    version = Version(levels, fine_levels, np.arange(count, dtype=np.float16))
    return Example(group, (version,), np.repeat(place[:, None], CHANNELS, axis=1))


def trainer(**train: object) -> ContentTrainer:
    return ContentTrainer(config(**train), CPU, n_fine=N_FINE, n_out=CHANNELS)


def test_targets_of_a_slower_version_are_stretched_with_it() -> None:
    source = CropSource([example(frames=40, stretch=3)], n_frames=120, seed=0)
    crops = source.draw(0, 1)
    assert crops.levels.shape == (1, 240, N_MELS) and crops.fine_levels.shape == (1, 240, N_FINE) and crops.real.all()
    np.testing.assert_allclose(crops.goals[0, :, 0], np.linspace(0.0, 39.0, 120), atol=1e-4)
    np.testing.assert_array_equal(crops.f0[0], np.arange(120))  # that of the version itself


def test_a_short_recording_is_filled_up_and_its_end_does_not_count() -> None:
    crops = CropSource([example(frames=10)], n_frames=16, seed=0).draw(0, 1)
    assert crops.real[0].tolist() == [1.0] * 10 + [0.0] * 6
    assert not crops.levels[0, 20:].any() and not crops.goals[0, 10:].any() and not crops.f0[0, 10:].any()


def test_groups_are_drawn_equally_often_however_large_they_are() -> None:
    examples = [example("many", seed=seed) for seed in range(30)]
    few = Example("few", examples[0].versions, np.full((40, CHANNELS), -1.0, dtype=np.float16))
    goals = CropSource([*examples, few], n_frames=16, seed=0).draw(0, 400).goals
    assert 150 < int((goals[:, 0, 0] < 0).sum()) < 250


def test_what_is_drawn_follows_from_the_step() -> None:
    draws = [CropSource([example()], n_frames=16, seed=1).draw(step, 2) for step in (3, 3, 4)]
    assert torch.equal(draws[0][0], draws[1][0])
    assert not torch.equal(draws[0][0], draws[2][0])


def test_steps_bring_the_network_nearer_to_its_teacher() -> None:
    one = trainer(max_steps=60, ema_decay=0.5)
    crops = CropSource([example()], n_frames=16, seed=0).draw(0, 4)
    crops = crops._replace(goals=(crops.goals - 20.0) / 10.0)  # as wide as those of a projection
    before = one.measure(crops)["total"]
    for _ in range(60):
        one.update(crops)
    assert one.measure(crops)["total"] < 0.5 * before


def test_a_continued_run_is_the_run_that_never_stopped() -> None:
    source = CropSource([example(seed=seed) for seed in range(3)], n_frames=16, seed=0)
    whole, first, second = trainer(ema_decay=0.9), trainer(ema_decay=0.9), trainer(ema_decay=0.9)
    for step in range(6):
        whole.update(source.draw(step, 4))
        if step < 3:
            first.update(source.draw(step, 4))
    tensors, numbers = first.state()
    second.load_state({name: value.clone() for name, value in tensors.items()}, numbers)
    for step in range(second.step, 6):
        second.update(source.draw(step, 4))
    for name, value in whole.state()[0].items():
        torch.testing.assert_close(second.state()[0][name], value, rtol=0, atol=0)


def readings(n_people: int, length: int = 30, seed: int = 0) -> list[npt.NDArray[np.float32]]:
    """One sentence in channel 0 and 1, said by people who differ in channel 2, with noise in channel 3."""
    random = np.random.default_rng(seed)
    words = 3.0 * random.standard_normal((length, 2))
    people = []
    for _ in range(n_people):
        feature = np.concatenate(
            [words, np.full((length, 1), 5.0 * random.standard_normal()), np.zeros((length, 1))], 1
        )
        people.append((feature + 0.1 * random.standard_normal(feature.shape)).astype(np.float32))
    return people


def test_the_projection_keeps_words_and_drops_people() -> None:
    sentences = [readings(6, seed=seed) for seed in range(8)]
    projection = discriminant(sentences, 2)
    assert projection.directions.shape == (4, 2)
    frames = np.concatenate([each for several in sentences for each in several])
    strength = np.abs(projection.directions) * frames.std(axis=0)[:, None]
    assert strength[:2].min(axis=1).max() > 20 * strength[2:].max()
    np.testing.assert_allclose(np.cov(projection(frames), rowvar=False), np.eye(2), atol=0.05)


def test_a_projection_turns_towards_what_an_encoder_writes() -> None:
    """Oracle: the encoder writes the same channels, turned, three times as large and elsewhere, for fewer frames."""
    random = np.random.default_rng(0)
    turn = np.linalg.qr(random.standard_normal((3, 3)))[0]
    directions = random.standard_normal((CHANNELS, 3)).astype(np.float32)
    plain = Projection(random.standard_normal(CHANNELS).astype(np.float32), directions, np.zeros(3, dtype=np.float32))
    taught = [random.standard_normal((frames, CHANNELS)).astype(np.float32) for frames in (400, 300)]
    # whitened, as the projection of a discriminant is
    whitening = np.linalg.cholesky(np.linalg.inv(np.cov(plain(np.concatenate(taught)), rowvar=False)))
    plain = Projection(plain.centre, (directions @ whitening).astype(np.float32), plain.offset)
    written = [(3.0 * plain(each) @ turn + [1.0, 2.0, 3.0])[:-1].astype(np.float32) for each in taught]
    turned = plain.turned(zip(taught, written, strict=True))
    for each, theirs in zip(taught, written, strict=True):
        np.testing.assert_allclose(turned(each)[:-1], theirs, atol=0.02)


def test_a_network_begins_with_the_weights_it_is_given() -> None:
    one, other = trainer(ema_decay=0.9), trainer(ema_decay=0.9, seed=2)
    content, melody = other.networks.content, other.networks.melody
    one.begin_with(content, melody)
    crops = CropSource([example()], n_frames=16, seed=0).draw(0, 4)
    assert one.measure(crops) == other.measure(crops)


def test_hardly_any_speech_is_not_enough_for_a_projection() -> None:
    with pytest.raises(DataError, match="hold 6 frames in all; expected many more than the 3 channels"):
        discriminant([readings(2, length=3)], 3)
    with pytest.raises(DataError, match="from speakers who differ"):
        discriminant([[readings(1)[0]] * 2], 2)


def test_about_half_of_the_crops_are_of_another_pitch_and_throat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_trainer, "_masked", lambda levels, chooser: levels)
    one = example(frames=16)
    version = one.versions[0]
    crops = CropSource([one], n_frames=16, seed=0).draw(0, 200)
    unchanged = [bool(torch.equal(levels, torch.from_numpy(version.levels).float())) for levels in crops.levels]
    assert 70 < sum(unchanged) < 130
    assert crops.levels.dtype == torch.float32 and 0.0 <= float(crops.levels.min()) <= float(crops.levels.max()) <= 1.0
    assert bool((crops.fine_levels == torch.from_numpy(version.fine_levels).float()).all()), "F0 would be another one"


@pytest.mark.parametrize("seed", range(3))
def test_crops_stay_between_silence_and_the_loudest(seed: int) -> None:
    levels, *_ = CropSource([example(seed=seed)], n_frames=16, seed=seed).draw(0, 32)
    assert float(levels.min()) >= 0.0 and float(levels.max()) <= 1.0
