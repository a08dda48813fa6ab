"""The inverse-STFT vocoder: source, filters, inverse transform, chunks."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from aasvc_cli.audio.mel import log_mel
from aasvc_cli.config.settings import MelConfig
from aasvc_cli.errors import ConfigError, ModelError
from aasvc_cli.storage.checkpoint import load_checkpoint, save_checkpoint
from aasvc_cli.vocoder.build import build_vocoder, load_vocoder, write_vocoder
from aasvc_cli.vocoder.folder import StoredVocoder
from aasvc_cli.vocoder.istft import (
    IstftGenerator,
    IstftSizes,
    IstftVocoder,
    PitchNet,
    head_size,
    held_pitch,
    pulse_train,
)

SMALL = IstftSizes(width=16, hidden=24, n_blocks=2, pitch_width=12, pitch_blocks=1, pitch_bins=32)
MELS = {
    "24 kHz": MelConfig(),
    "48 kHz": MelConfig(sample_rate=48000, n_fft=2048, hop_length=512),
    "16 kHz, natural logarithm, band limited": MelConfig(
        sample_rate=16000, n_fft=1024, hop_length=160, n_mels=40, fmin=80, fmax=7600, log_base=None
    ),
    "hop of half a window": MelConfig(sample_rate=16000, n_fft=512, hop_length=256, n_mels=20),
    "hop that divides nothing": MelConfig(sample_rate=22050, n_fft=1024, hop_length=275, win_length=800),
}


def vowel(mel: MelConfig, *, f0: float = 220.0, seconds: float = 0.6) -> np.ndarray:
    """A steady harmonic sound with a falling spectrum and a little noise."""
    times = np.arange(int(seconds * mel.sample_rate)) / mel.sample_rate
    harmonics = sum(np.cos(2 * np.pi * f0 * k * times + k) / k for k in range(1, int(0.4 * mel.sample_rate / f0)))
    noise = 0.002 * np.random.default_rng(0).standard_normal(len(times))
    return (0.05 * harmonics + noise).astype(np.float32)


def generator(mel: MelConfig, sizes: IstftSizes = SMALL, seed: int = 0) -> IstftGenerator:
    torch.manual_seed(seed)
    return IstftGenerator(mel, sizes)


def shaken(net: IstftGenerator) -> IstftGenerator:
    """The same network with a head that does something."""
    with torch.no_grad():
        net.backbone.head.weight.mul_(10.0)
    return net


def batch(mel: MelConfig, n_frames: int, n_batch: int = 1) -> torch.Tensor:
    rng = np.random.default_rng(n_frames)
    slow = np.cumsum(rng.standard_normal((n_batch, n_frames, mel.n_mels)), axis=1) * 0.1
    return torch.from_numpy((slow - 2.0).astype(np.float32))


class TestShapes:
    @pytest.mark.parametrize("mel", MELS.values(), ids=MELS.keys())
    def test_any_rate_and_hop_gives_a_hop_of_samples_per_frame(self, mel: MelConfig):
        vocoder = IstftVocoder(generator(mel))
        for n_frames in (1, 2, 37):
            wave = vocoder.synthesise(batch(mel, n_frames, 2))
            assert wave.shape == (2, n_frames * mel.hop_length)
            assert wave.dtype == torch.float32 and bool(wave.isfinite().all())

    def test_nothing_gives_nothing(self):
        vocoder = IstftVocoder(generator(MelConfig()))
        assert vocoder.synthesise(torch.zeros(2, 0, 80)).shape == (2, 0)
        assert vocoder.synthesise(torch.zeros(0, 5, 80)).shape == (0, 5 * 256)

    def test_a_mel_of_other_width_is_refused_with_both_numbers(self):
        with pytest.raises(ValueError, match=r"\(B, T, 80\).*\(1, 4, 40\)"):
            IstftVocoder(generator(MelConfig())).synthesise(torch.zeros(1, 4, 40))

    @pytest.mark.parametrize("mel", MELS.values(), ids=MELS.keys())
    def test_frames_of_the_head_overlap_fourfold(self, mel: MelConfig):
        assert head_size(mel) >= max(mel.n_fft, 4 * mel.hop_length)

    def test_each_item_of_a_batch_is_as_alone(self):
        mel = MelConfig()
        vocoder, mels = IstftVocoder(shaken(generator(mel))), batch(mel, 40, 3)
        together = vocoder.synthesise(mels)
        for row, alone in zip(together, mels, strict=True):
            # sums in another order move the pitch by millionths, and over time the phase by more
            assert float((row - vocoder.synthesise(alone[None])[0]).std()) < 0.02 * float(row.std())

    def test_the_same_seed_gives_the_same_samples_and_another_seed_other_noise(self):
        mel = MelConfig()
        vocoder, mels = IstftVocoder(generator(mel)), batch(mel, 30)
        assert torch.equal(vocoder.synthesise(mels, seed=3), vocoder.synthesise(mels, seed=3))
        assert not torch.equal(vocoder.synthesise(mels, seed=3), vocoder.synthesise(mels, seed=4))

    @pytest.mark.parametrize("log_base", [10.0, None])
    def test_how_empty_a_band_is_makes_no_difference(self, log_base: float | None):
        mel = MelConfig(log_base=log_base)
        vocoder = IstftVocoder(shaken(generator(mel)))
        asked = torch.randn(1, 20, mel.n_mels, generator=torch.Generator().manual_seed(0)).mul(0.3).sub(2.0)
        rounding = [asked.clone(), asked.clone()]
        silence = math.log(1e-5, log_base or math.e)
        for each, softer in zip(rounding, (0.5, 3.0), strict=True):
            each[:, :, 60:] = silence - softer
        one, other = (vocoder.generator.normalise(each) for each in rounding)
        assert torch.equal(one, other) and not torch.equal(one, vocoder.generator.normalise(asked))

    def test_values_that_are_not_numbers_are_silence(self):
        mel = MelConfig()
        vocoder = IstftVocoder(generator(mel))
        broken = torch.full((1, 20, 80), math.nan)
        assert float(vocoder.synthesise(broken).abs().max()) < 1e-4


class TestInverse:
    @pytest.mark.parametrize("mel", MELS.values(), ids=MELS.keys())
    def test_it_equals_torch_istft(self, mel: MelConfig):
        net = generator(mel)
        for n_frames in (7, 8, 9, 10, 30):
            spectrum = torch.randn(2, n_frames, net.n_fft // 2 + 1, dtype=torch.complex64)
            # torch leaves no choice about the imaginary parts at the ends, which a real signal doesn't have
            spectrum.imag[..., 0] = spectrum.imag[..., -1] = 0
            # without the last frames, behind which torch would want more of them
            length = (n_frames - 1) * mel.hop_length
            expected = torch.istft(
                spectrum.transpose(1, 2), net.n_fft, mel.hop_length, window=net.window, center=True, length=length
            )
            torch.testing.assert_close(net.inverse(spectrum)[:, :length], expected, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("mel", MELS.values(), ids=MELS.keys())
    def test_it_undoes_the_analysis(self, mel: MelConfig):
        net = generator(mel)
        wave = torch.randn(1, 25 * mel.hop_length)
        torch.testing.assert_close(net.inverse(net._analyse(wave)), wave, atol=1e-4, rtol=1e-4)


class TestNoise:
    @pytest.mark.parametrize("seed", [0, 3])
    def test_noise_wraps_around_the_end_of_its_table(self, seed: int):
        vocoder = IstftVocoder(generator(MelConfig()))
        size = len(vocoder.generator.noise)
        cuts = [size - 700, size - 5, size + 9, 2 * size + 3, 2 * size + 300]
        parts = [vocoder._noise(start, end, seed) for start, end in pairwise(cuts)]
        assert torch.equal(vocoder._noise(cuts[0], cuts[-1], seed), torch.cat(parts))
        assert torch.equal(vocoder._noise(0, 50, seed), vocoder._noise(size, size + 50, seed))


class TestSource:
    def test_pulses_have_the_pitch_asked_for(self):
        mel = MelConfig()
        net, n_frames = generator(mel), 60
        f0 = torch.full((1, n_frames + 1), 200.0)
        voiced = torch.ones(1, n_frames + 1, dtype=torch.bool)
        silence = torch.zeros(1, n_frames * 256)
        wave = net.inverse(net.excite(f0, voiced, torch.zeros(1), silence).pulses)[0]
        spectrum = torch.fft.rfft(wave[2400 : 2400 + 12000]).abs()  # 2 Hz per bin
        peaks = {100 * k for k in range(1, 16)}
        strongest = set(spectrum[:1550].topk(15).indices.tolist())
        assert strongest == peaks

    def test_the_phase_goes_on_from_frame_to_frame_while_the_pitch_glides(self):
        mel = MelConfig()
        net = generator(mel)
        f0 = torch.linspace(150.0, 400.0, 81)[None]
        voiced = torch.ones(1, 81, dtype=torch.bool)
        whole = net.excite(f0, voiced, torch.zeros(1), torch.zeros(1, 80 * 256)).pulses
        # the phase of any later frame, integrated by hand
        cycles = float(((f0[0, :40] + f0[0, 1:41]) * (256 / 24000 / 2)).double().sum()) % 1.0
        later = net.excite(f0[:, 40:], voiced[:, 40:], torch.tensor([cycles]), torch.zeros(1, 40 * 256)).pulses
        torch.testing.assert_close(whole[:, 44:], later[:, 4:], atol=5e-2, rtol=1e-2)

    def test_pulses_are_the_sum_of_all_harmonics_at_any_phase(self):
        near = torch.logspace(-9, -1, 60)
        cycles = torch.cat([-near.flip(0), torch.zeros(1), near, torch.linspace(-0.5, 0.499, 50)])
        for f0, room in ((93.0, 12000 / 93), (251.0, 12000 / 251), (799.0, 12000 / 799), (6000.0, 2.0), (13000.0, 0.0)):
            found = pulse_train(cycles, torch.full_like(cycles, f0), 24000)
            harmonics = torch.arange(1, math.ceil(room) + 1).double()[:, None]
            weights = (room - harmonics).clamp(0.0, 1.0)  # the uppermost fades in
            norm = math.sqrt(2.0 / max(1.0, float(weights.square().sum())))
            exact = (weights * torch.cos(2 * math.pi * harmonics * cycles.double())).sum(0) * norm
            assert (found - exact).abs().max() < 1e-4

    def test_one_harmonic_more_comes_without_a_jump(self):
        f0 = torch.tensor([120.0 * (1.0 + 1e-6), 120.0 * (1.0 - 1e-6)])  # 100 times that is half the sample rate
        above, below = pulse_train(torch.zeros(2), f0.double(), 24000)
        assert abs(above - below) < 1e-3 and above > 10.0

    def test_the_last_bits_of_a_pitch_do_not_change_its_pulses(self):
        net = generator(MelConfig())
        f0 = torch.linspace(97.0, 260.0, 401).double()[None]
        voiced = torch.ones(1, 401, dtype=torch.bool)
        pulses, other = (
            net.sources(each, voiced, torch.zeros(1), torch.zeros(1, 400 * 256))[0] for each in (f0, f0 * (1 + 1e-9))
        )
        assert (pulses - other).abs().max() < 2e-3 and pulses.abs().max() > 5.0

    def test_pulses_and_noise_have_unit_variance(self):
        net = generator(MelConfig())
        net.fade.fill_(1.0)
        f0, voiced = torch.full((1, 101), 240.0), torch.ones(1, 101, dtype=torch.bool)
        pulses = net.inverse(net.excite(f0, voiced, torch.zeros(1), torch.zeros(1, 25600)).pulses)
        assert float(pulses[0, 2400:-2400].square().mean()) == pytest.approx(1.0, rel=0.05)
        noise = net.inverse(net.excite(f0, ~voiced, torch.zeros(1), net.noise[None, :25600]).noise)
        assert float(noise[0, 2400:-2400].square().mean()) == pytest.approx(1.0, rel=0.05)

    def test_unvoiced_frames_have_no_pulses(self):
        net = generator(MelConfig())
        f0, voiced = torch.full((1, 21), 240.0), torch.zeros(1, 21, dtype=torch.bool)
        assert not bool(net.excite(f0, voiced, torch.zeros(1), torch.zeros(1, 5120)).pulses.abs().any())

    def test_the_pitch_stands_still_where_pulses_fade(self):
        f0 = torch.tensor([[500.0, 500.0, 200.0, 220.0, 70.0, 60.0]])
        voiced = torch.tensor([[False, False, True, True, False, False]])
        assert held_pitch(f0, voiced).tolist() == [[500.0, 200.0, 200.0, 220.0, 220.0, 60.0]]


class TestUntrained:
    @pytest.mark.parametrize("mel", MELS.values(), ids=MELS.keys())
    def test_the_mel_of_what_an_untrained_generator_says_is_the_mel_asked_for(self, mel: MelConfig):
        wave = vowel(mel)
        asked = log_mel(wave, mel)
        net = generator(mel)
        f0 = torch.full((1, len(asked) + 1), 220.0)
        excitation = net.excite(
            f0, torch.ones_like(f0, dtype=torch.bool), torch.zeros(1), net.noise[None, : len(asked) * mel.hop_length]
        )
        with torch.no_grad():
            made = log_mel(net(torch.from_numpy(asked)[None], excitation)[0].numpy(), mel)[: len(asked)]
        to_decades = 1.0 if mel.log_base == 10.0 else 1.0 / math.log(10.0)
        error = np.abs(made - asked)[6:-6] * to_decades
        # the head's window may be longer than that of the mel, and then bands mean something else
        assert float(error.mean()) < (0.06 if net.n_fft == (mel.win_length or mel.n_fft) else 0.15)

    def test_quiet_and_loud_mels_give_quiet_and_loud_speech(self):
        mel = MelConfig()
        vocoder = IstftVocoder(generator(mel))
        asked = torch.from_numpy(log_mel(vowel(mel), mel))[None]
        loud, quiet = vocoder.synthesise(asked), vocoder.synthesise(asked - 1.0)
        assert float(loud.std() / quiet.std()) == pytest.approx(10.0, rel=0.2)


class TestPitch:
    def test_the_loss_is_least_for_the_right_pitch(self):
        net = PitchNet(4, SMALL)
        mel = torch.zeros(1, 3, 4)
        f0 = net.centres[[10, 10, 10]].exp()[None]
        # the network answers with its bias alone
        torch.nn.init.zeros_(net.backbone.head.weight)
        values = []
        for peak in (10, 11, 16):
            with torch.no_grad():
                net.backbone.head.bias.zero_()
                net.backbone.head.bias[peak] = 5.0
                values.append(float(net.loss(mel, f0)))
        assert values[0] < values[1] < values[2]

    def test_unvoiced_frames_teach_voicing_only(self):
        net = PitchNet(4, SMALL)
        net.loss(torch.randn(1, 5, 4), torch.zeros(1, 5)).backward()
        gradient = net.backbone.head.weight.grad
        assert gradient is not None
        assert not bool(gradient[:-1].any()) and bool(gradient[-1].any())

    def test_it_learns_to_read_the_pitch_of_vowels(self):
        mel = MelConfig(sample_rate=16000, n_fft=1024, hop_length=256, n_mels=80)
        torch.manual_seed(0)
        net = PitchNet(80, dataclasses.replace(SMALL, pitch_bins=64))
        pitches = np.linspace(120.0, 400.0, 15)
        mels = torch.stack(
            [torch.from_numpy(log_mel(vowel(mel, f0=f0, seconds=0.3), mel))[:16] + 2.0 for f0 in pitches]
        )
        wanted = torch.from_numpy(pitches.astype(np.float32))[:, None].expand(-1, 16)
        optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
        for _ in range(150):
            optimizer.zero_grad()
            net.loss(mels, wanted).backward()
            optimizer.step()
        with torch.no_grad():
            f0, voiced = net.decode(mels)
        assert bool(voiced.all())
        assert float((1200.0 * (f0[:, 3:-3] / wanted[:, 3:-3]).log2()).abs().median()) < 25.0  # cents


class TestChunks:
    @pytest.mark.parametrize("mel", [MELS["24 kHz"], MELS["48 kHz"], MELS["hop of half a window"]])
    @pytest.mark.parametrize("chunk_frames", [16, 37])
    def test_chunks_equal_one_pass(self, mel: MelConfig, chunk_frames: int):
        net = shaken(generator(mel))
        asked = batch(mel, 150, 2)
        # voicing that comes and goes, so that its ends fall on seams, too
        asked += torch.sin(torch.arange(150) / 3.0)[None, :, None]
        whole = IstftVocoder(net, chunk_frames=1000).synthesise(asked)
        parts = IstftVocoder(net, chunk_frames=chunk_frames).synthesise(asked)
        assert float((whole - parts).abs().max()) <= 1e-5 * max(1.0, float(whole.abs().max()))

    def test_memory_does_not_grow_with_length(self):
        mel = MelConfig()
        vocoder = IstftVocoder(generator(mel), chunk_frames=64)
        seen: list[int] = []
        head = vocoder.generator.backbone.head
        handle = head.register_forward_hook(lambda _m, args, _out: seen.append(args[0].shape[1]))
        vocoder.synthesise(batch(mel, 1000))
        handle.remove()
        assert len(seen) == math.ceil(1000 / 64)
        assert max(seen) <= 64 + 2 * vocoder.generator.context


class TestFolder:
    def stored(self, mel: MelConfig) -> tuple[StoredVocoder, IstftGenerator]:
        net = shaken(generator(mel))
        with torch.no_grad():
            net.mean.fill_(-2.0)
            net.scale.fill_(0.5)
        return StoredVocoder("istft", mel, dataclasses.asdict(SMALL), net.state_dict(), {"step": 7}), net

    @pytest.mark.parametrize("half", [False, True])
    def test_a_folder_gives_back_the_vocoder(self, tmp_path, half: bool):
        mel = MelConfig()
        stored, net = self.stored(mel)
        if half:
            stored = dataclasses.replace(stored, tensors={n: t.half() for n, t in stored.tensors.items()})
        write_vocoder(tmp_path / "mine", stored)
        vocoder = build_vocoder(tmp_path / "mine", mel)
        assert isinstance(vocoder, IstftVocoder)
        asked = batch(mel, 50)
        expected = IstftVocoder(net).synthesise(asked)
        made = vocoder.synthesise(asked)
        assert float((made - expected).abs().mean()) <= (0.02 * float(expected.abs().mean()) if half else 0.0)

    def test_loading_draws_no_random_numbers(self, tmp_path):
        write_vocoder(tmp_path / "mine", self.stored(MelConfig())[0])
        torch.manual_seed(5)
        before = torch.get_rng_state()
        load_vocoder(tmp_path / "mine")
        assert torch.equal(torch.get_rng_state(), before)

    def test_another_hop_is_refused_with_both_values(self, tmp_path):
        write_vocoder(tmp_path / "mine", self.stored(MelConfig())[0])
        with pytest.raises(ModelError, match="hop_length 256, the model has 240"):
            build_vocoder(tmp_path / "mine", MelConfig(hop_length=240))

    def test_weights_of_another_network_are_refused(self, tmp_path):
        write_vocoder(tmp_path / "mine", self.stored(MelConfig())[0])
        path = tmp_path / "mine" / "generator.safetensors"
        tensors, header = load_checkpoint(path)
        tensors.pop("backbone.head.bias")
        save_checkpoint(path, tensors, header)
        with pytest.raises(ModelError, match="1 missing"):
            load_vocoder(tmp_path / "mine")

    def test_unknown_sizes_are_refused(self, tmp_path):
        stored = self.stored(MelConfig())[0]
        write_vocoder(tmp_path / "mine", dataclasses.replace(stored, generator={"widht": 3}))
        with pytest.raises(ConfigError, match="did you mean width"):
            load_vocoder(tmp_path / "mine")
