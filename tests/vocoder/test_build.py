"""The published vocoders: exact, in pieces as at once, in our form as in theirs, and refused if a part is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from aasvc_cli.config.settings import MelConfig
from aasvc_cli.errors import ConfigError, ModelError
from aasvc_cli.storage.home import Home
from aasvc_cli.vocoder.build import build_vocoder, default_vocoder, load_vocoder
from aasvc_cli.vocoder.folder import find_vocoder
from aasvc_cli.vocoder.gan_generators import GanVocoder, noise_between
from tests.examples import examples

KINDS = ["hifigan", "pwg"]


class Example:
    """A stored published vocoder with a mel, normalised, and the sound that it makes of it."""

    def __init__(self, folder: Path):
        self.folder = folder
        with np.load(folder / "example.npz") as stored:
            arrays = {name: torch.from_numpy(stored[name]) for name in stored.files}
        self.mel, self.wave = arrays["mel"], arrays["wave"].reshape(-1)
        self.noise = arrays["noise"].reshape(1, -1) if "noise" in arrays else None

    def log_mel(self, vocoder: GanVocoder) -> torch.Tensor:
        """(1, T, M), not normalised."""
        return (self.mel * vocoder.scale + vocoder.mean)[None]


@pytest.fixture(params=KINDS)
def example(request: pytest.FixtureRequest, data: Path) -> Example:
    return Example(data / f"vocoder-{request.param}")


@pytest.fixture
def vocoder(example: Example) -> GanVocoder:
    loaded = load_vocoder(example.folder)
    assert isinstance(loaded, GanVocoder)
    return loaded


@pytest.mark.parametrize("chunk_frames", [None, 1, 5, 64])
def test_the_published_sound_comes_out_at_once_and_in_pieces(example, vocoder, chunk_frames):
    vocoder.chunk_frames = chunk_frames
    found = vocoder.synthesise(example.log_mel(vocoder), noise=example.noise)[0]
    assert found.shape == example.wave.shape
    assert float((found - example.wave).abs().max()) <= 1e-5


def test_our_form_of_a_published_vocoder_is_made_once_and_sounds_the_same(example, home: Home):
    direct, kept = load_vocoder(example.folder), load_vocoder(example.folder, home=home)
    (folder,) = [path for path in home.imported.iterdir() if not path.name.startswith(".")]
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "generator.safetensors"]
    log_mel = example.log_mel(direct)
    expected = direct.synthesise(log_mel, seed=3)
    assert torch.equal(kept.synthesise(log_mel, seed=3), expected)
    assert torch.equal(load_vocoder(folder).synthesise(log_mel, seed=3), expected)


def test_a_mel_is_given_to_the_generator_in_bounded_pieces(vocoder, monkeypatch):
    seen = []
    generate = vocoder.generator.generate
    monkeypatch.setattr(
        vocoder.generator, "generate", lambda mel, noise: seen.append(mel.shape[1]) or generate(mel, noise)
    )
    vocoder.chunk_frames = 10
    pieces = list(vocoder.stream(torch.zeros(1, 95, 80)))
    assert [piece.shape[1] for piece in pieces] == [2560] * 9 + [1280]
    assert max(seen) <= 10 + 2 * vocoder.generator.reach


def test_the_seed_decides_what_is_drawn_and_company_does_not(example, vocoder):
    log_mel = example.log_mel(vocoder)
    first, again, other = (vocoder.synthesise(log_mel, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (example.noise is None)
    together = vocoder.synthesise(torch.cat([log_mel - 1, log_mel]), seed=1)
    assert float((together[1] - first[0]).abs().max()) <= 1e-5


@examples(25)
@given(seed=st.integers(0, 2**40), start=st.integers(0, 50000), length=st.integers(0, 20000))
def test_noise_has_its_place_however_it_is_cut(seed: int, start: int, length: int):
    whole = noise_between(seed, 0, 70000)
    assert torch.equal(noise_between(seed, start, start + length), whole[start : start + length])


def test_noise_is_standard_normal_and_not_repeated():
    noise = noise_between(7, 0, 1 << 20)
    assert abs(float(noise.mean())) < 0.005 and abs(float(noise.std()) - 1) < 0.005
    assert abs(float((noise[: 1 << 19] * noise[1 << 19 :]).mean())) < 0.007
    assert not torch.equal(noise_between(0, 1 << 14, 1 << 15), noise_between(1, 0, 1 << 14))


def effective(state: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """The weight that a weight-normalised layer uses, row by row."""
    gain, direction = state[f"{name}.weight_g"], state[f"{name}.weight_v"]
    return torch.stack([g * v / v.pow(2).sum().sqrt() for g, v in zip(gain.flatten(), direction, strict=True)])


class Published:
    """A small published network with random weights, and its formula written down by the published names."""

    def __init__(self, causal: bool, seed: int = 0):
        self.causal = causal
        self.random = torch.Generator().manual_seed(seed)
        self.state: dict[str, torch.Tensor] = {}

    def add(self, name: str, *shape: int, bias: bool = True, transposed: bool = False) -> None:
        self.state[f"{name}.weight_v"] = torch.randn(*shape, generator=self.random)
        gains = 0.7 + 0.6 * torch.rand(shape[0], *[1] * (len(shape) - 1), generator=self.random)
        self.state[f"{name}.weight_g"] = gains
        if bias:
            self.state[f"{name}.bias"] = 0.1 * torch.randn(shape[1 if transposed else 0], generator=self.random)

    def conv(self, name: str, x: torch.Tensor, dilation: int = 1) -> torch.Tensor:
        weight = effective(self.state, name)
        reach = (weight.shape[2] - 1) * dilation
        before = reach if self.causal else reach // 2
        x = functional.pad(x, (before, reach - before))
        return functional.conv1d(x, weight, self.state.get(f"{name}.bias"), dilation=dilation)


class PublishedHiFiGan(Published):
    scales, kernels, dilations, channels = (4, 3), (3, 5), ((1, 3), (2,)), 16

    def __init__(self, causal: bool):
        super().__init__(causal)
        self.inner, self.up = (".conv", ".deconv") if causal else ("", "")
        self.add(f"input_conv{self.inner}", 16, 6, 7)
        width = self.channels
        for stage, scale in enumerate(self.scales):
            self.add(f"upsamples.{stage}.1{self.up}", width, width // 2, 2 * scale, transposed=True)
            width //= 2
            for block, (kernel, dilations) in enumerate(zip(self.kernels, self.dilations, strict=True)):
                for index in range(len(dilations)):
                    for convs in ("convs1", "convs2"):
                        self.add(f"blocks.{2 * stage + block}.{convs}.{index}.1{self.inner}", width, width, kernel)
        self.add(f"output_conv.1{self.inner}", 1, width, 7)
        self.params = {
            "in_channels": 6, "channels": 16, "upsample_scales": list(self.scales),
            "upsample_kernel_sizes": [2 * scale for scale in self.scales],
            "resblock_kernel_sizes": list(self.kernels), "resblock_dilations": [list(d) for d in self.dilations],
            "use_causal_conv": causal,
        }  # fmt: skip
        self.type = "HiFiGANGenerator"

    def __call__(self, mel: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        def act(x: torch.Tensor, slope: float = 0.1) -> torch.Tensor:
            return torch.where(x > 0, x, slope * x)

        x = self.conv(f"input_conv{self.inner}", mel.T[None])
        for stage, scale in enumerate(self.scales):
            name, x, length = f"upsamples.{stage}.1{self.up}", act(x), x.shape[2] * scale
            if self.causal:
                x = torch.cat([x[..., :1], x], dim=2)
            weight = effective(self.state, name)
            # every input frame adds its kernel, s samples after that of the frame before
            full = torch.zeros(1, weight.shape[1], (x.shape[2] + 1) * scale)
            for frame in range(x.shape[2]):
                full[..., frame * scale : (frame + 2) * scale] += torch.einsum("bi,iok->bok", x[..., frame], weight)
            start = scale if self.causal else scale // 2 + scale % 2
            x = functional.pad(full, (0, 1))[..., start : start + length] + self.state[f"{name}.bias"][:, None]
            results = []
            for block, dilations in enumerate(self.dilations):
                y, where = x, f"blocks.{2 * stage + block}"
                for index, dilation in enumerate(dilations):
                    inner = self.conv(f"{where}.convs1.{index}.1{self.inner}", act(y), dilation)
                    y = y + self.conv(f"{where}.convs2.{index}.1{self.inner}", act(inner))
                results.append(y)
            x = sum(results) / len(results)
        return torch.tanh(self.conv(f"output_conv.1{self.inner}", act(x, 0.01))).flatten()


class PublishedParallelWaveGan(Published):
    scales, window = (4, 3), 1

    def __init__(self, causal: bool, net: str = "ConvInUpsampleNetwork", slope: float | None = None, bands: int = 1):
        super().__init__(causal)
        self.net, self.slope = net, slope
        self.prefix = "upsample_net." if net == "UpsampleNetwork" else "upsample_net.upsample."
        if net == "UpsampleNetwork":
            self.window = 0
        else:
            self.add("upsample_net.conv_in", 6, 6, self.window + 1 if causal else 2 * self.window + 1, bias=False)
        self.stages = [f"{self.prefix}up_layers.{(3 if slope else 2) * k + 1}" for k in range(2)]
        for name, scale in zip(self.stages, self.scales, strict=True):
            self.add(name, 1, 1, bands, 2 * scale + 1, bias=False)
        self.add("first_conv", 8, 1, 1)
        for layer in range(4):
            where = f"conv_layers.{layer}"
            self.add(f"{where}.conv", 12, 8, 3)
            self.add(f"{where}.conv1x1_aux", 12, 6, 1, bias=False)
            self.add(f"{where}.conv1x1_out", 8, 6, 1)
            self.add(f"{where}.conv1x1_skip", 5, 6, 1)
        self.add("last_conv_layers.1", 5, 5, 1)
        self.add("last_conv_layers.3", 1, 5, 1)
        upsample = {"upsample_scales": list(self.scales), "freq_axis_kernel_size": bands}
        if slope:
            upsample |= {"nonlinear_activation": "LeakyReLU", "nonlinear_activation_params": {"negative_slope": slope}}
        self.params = {
            "aux_channels": 6, "aux_context_window": self.window, "layers": 4, "stacks": 2, "residual_channels": 8,
            "gate_channels": 12, "skip_channels": 5, "use_causal_conv": causal, "upsample_net": net,
            "upsample_params": upsample,
        }  # fmt: skip
        self.type = "ParallelWaveGANGenerator"

    def __call__(self, mel: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        c = mel.T[None]
        if self.net == "ConvInUpsampleNetwork":
            edges = [c[..., :1].expand(-1, -1, self.window), c, c[..., -1:].expand(-1, -1, self.window)]
            c = functional.conv1d(torch.cat(edges, dim=2), effective(self.state, "upsample_net.conv_in"))
            c = c[..., : mel.shape[0]]
        for name, scale in zip(self.stages, self.scales, strict=True):
            stretched = torch.stack([c] * scale, dim=3).flatten(2)
            weight = effective(self.state, name)
            padding = (weight.shape[2] // 2, scale * (2 if self.causal else 1))
            c = functional.conv2d(stretched[:, None], weight, padding=padding)[:, 0, :, : stretched.shape[2]]
            c = torch.where(c > 0, c, self.slope * c) if self.slope else c
        x = self.conv("first_conv", noise[None, None])
        skips = torch.zeros(1, 5, x.shape[2])
        for layer in range(4):
            where = f"conv_layers.{layer}"
            y = self.conv(f"{where}.conv", x, 2 ** (layer % 2)) + self.conv(f"{where}.conv1x1_aux", c)
            gated = torch.tanh(y[:, :6]) * torch.sigmoid(y[:, 6:])
            skips = skips + self.conv(f"{where}.conv1x1_skip", gated)
            x = (self.conv(f"{where}.conv1x1_out", gated) + x) * 0.5**0.5
        hidden = self.conv("last_conv_layers.1", (skips * 0.25**0.5).relu())
        return self.conv("last_conv_layers.3", hidden.relu()).flatten()


def write_published(
    folder: Path, network: Published, state: dict[str, torch.Tensor] | None = None, **config: Any
) -> Path:
    """A vocoder folder in the published layout, whose mels are not normalised in effect."""
    folder.mkdir(parents=True, exist_ok=True)
    tree = {
        "sampling_rate": 4800, "fft_size": 64, "hop_size": 12, "num_mels": 6, "format": "hdf5",
        "generator_type": network.type, "generator_params": network.params,
    } | config  # fmt: skip
    (folder / "config.yml").write_text(yaml.safe_dump(tree))
    torch.save({"model": {"generator": state or network.state}}, folder / "checkpoint-7steps.pkl")
    with h5py.File(folder / "stats.h5", "w") as stream:
        stream["mean"], stream["scale"] = np.zeros(6, np.float32), np.ones(6, np.float32)
    return folder


VARIANTS = {
    "hifi-gan": lambda: PublishedHiFiGan(causal=False),
    "hifi-gan causal": lambda: PublishedHiFiGan(causal=True),
    "pwg": lambda: PublishedParallelWaveGan(causal=False),
    "pwg causal": lambda: PublishedParallelWaveGan(causal=True),
    "pwg without input convolution": lambda: PublishedParallelWaveGan(causal=False, net="UpsampleNetwork"),
    "pwg with activations": lambda: PublishedParallelWaveGan(causal=False, slope=0.2),
    "pwg smoothed over bands": lambda: PublishedParallelWaveGan(causal=False, bands=3),
    "pwg causal, smoothed over bands": lambda: PublishedParallelWaveGan(causal=True, bands=3),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_follows_its_formula_at_once_and_in_pieces(variant: str, tmp_path: Path):
    network = VARIANTS[variant]()
    vocoder = load_vocoder(write_published(tmp_path / "v", network))
    assert isinstance(vocoder, GanVocoder)
    for n_frames in (1, 2, 9, 40):
        mel, noise = torch.randn(n_frames, 6), torch.randn(n_frames * 12)
        expected = network(mel, noise)
        assert expected.shape == noise.shape
        for chunk_frames in (None, 1, 3, 16):
            vocoder.chunk_frames = chunk_frames
            found = vocoder.synthesise(mel[None], noise=noise[None])[0]
            assert float((found - expected).abs().max()) <= 1e-5, (n_frames, chunk_frames)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if "causal" in name])
def test_causal_variants_do_not_look_ahead(variant: str, tmp_path: Path):
    vocoder = load_vocoder(write_published(tmp_path / "v", VARIANTS[variant]()))
    mel = torch.randn(1, 30, 6)
    changed = mel.clone()
    changed[:, 20:] += 1
    one, other = vocoder.synthesise(mel), vocoder.synthesise(changed)
    assert torch.equal(one[:, : 19 * 12], other[:, : 19 * 12])
    assert not torch.allclose(one[:, 20 * 12 :], other[:, 20 * 12 :])


@pytest.mark.parametrize("variant", ["hifi-gan", "pwg"])
def test_weights_may_be_folded_or_in_the_newer_form_of_weight_normalisation(variant: str, tmp_path: Path):
    network = VARIANTS[variant]()
    names = [name.removesuffix(".weight_g") for name in network.state if name.endswith("weight_g")]
    biases = {name: tensor for name, tensor in network.state.items() if name.endswith("bias")}
    folded = biases | {f"{name}.weight": effective(network.state, name) for name in names}
    newer = biases | {
        f"{name}.parametrizations.weight.original{number}": network.state[f"{name}.weight_{part}"]
        for name in names
        for number, part in enumerate("gv")
    }
    mel = torch.randn(1, 9, 6)
    waves = [
        load_vocoder(write_published(tmp_path / str(index), network, state)).synthesise(mel)
        for index, state in enumerate((network.state, folded, newer | {"mean": torch.ones(6)}))
    ]
    assert torch.allclose(waves[0], waves[1], atol=1e-6) and torch.allclose(waves[0], waves[2], atol=1e-6)


def test_checkpoints_of_the_oldest_file_format_are_read(tmp_path: Path):
    network = PublishedHiFiGan(causal=False)
    folder = write_published(tmp_path / "v", network)
    mel = torch.randn(1, 9, 6)
    expected = load_vocoder(folder).synthesise(mel)
    tree = {"model": {"generator": network.state, "discriminator": {}}, "optimizer": {"generator": {}}, "steps": 8}
    torch.save(tree, folder / "checkpoint-8steps.pkl", _use_new_zipfile_serialization=False)
    assert torch.equal(load_vocoder(folder).synthesise(mel), expected)


@pytest.mark.parametrize("variant", ["hifi-gan", "pwg"])
def test_a_network_without_biases_is_one_with_zeros(variant: str, tmp_path: Path):
    network = VARIANTS[variant]()
    # the published constructors leave the first and the last layers their biases
    kept = ("first_conv", "last_conv", "input_conv", "output_conv", "upsamples")
    network.params["bias"] = False
    network.state = {
        name: torch.zeros_like(tensor) if name.endswith("bias") and not name.startswith(kept) else tensor
        for name, tensor in network.state.items()
    }
    bare = {n: t for n, t in network.state.items() if not n.endswith("bias") or n.startswith(kept)}
    found = load_vocoder(write_published(tmp_path / "v", network, bare))
    mel, noise = torch.randn(9, 6), torch.randn(9 * 12)
    assert isinstance(found, GanVocoder)
    assert torch.allclose(found.synthesise(mel[None], noise=noise[None])[0], network(mel, noise), atol=1e-5)
    del network.params["bias"]
    with pytest.raises(ModelError, match=r"tensors \d+ missing"):
        load_vocoder(write_published(tmp_path / "v", network, bare))


class TestRefused:
    def test_every_unsupported_key_is_named_at_once(self, tmp_path: Path):
        network = PublishedHiFiGan(causal=False)
        network.params |= {
            "out_channels": 4, "upsample_kernel_sizes": [9, 6], "nonlinear_activation": "ReLU", "spam": 1,
        }  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            load_vocoder(write_published(tmp_path / "v", network, window="hamming", sampling_rate_for_feats=8000))
        words = ("out_channels: 4", "[9, 6]", "ReLU", "spam: unknown key", "hamming", "sampling_rate_for_feats")
        assert all(word in str(caught.value) for word in words), caught.value
        network = PublishedParallelWaveGan(causal=False)
        network.params |= {"upsample_conditional_features": False, "in_channels": 2}
        network.params["upsample_params"] |= {"interpolate_mode": "linear", "eggs": 1}
        with pytest.raises(ConfigError) as caught:
            load_vocoder(write_published(tmp_path / "v", network))
        words = ("upsample_conditional_features: False", "in_channels: 2", "linear", "eggs: unknown key")
        assert all(word in str(caught.value) for word in words), caught.value

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"generator_type": "StyleMelGANGenerator"}, "generator_type: 'StyleMelGANGenerator' is not supported"),
            ({"hop_size": 16}, "product is 12, but mel.hop_length is 16"),
            ({"num_mels": 8}, "takes 6 channels, but mel.n_mels is 8|6 values, expected 8"),
            ({"sampling_rate": None}, "sample_rate: should be a valid integer, found null"),
        ],
    )
    def test_configurations_that_cannot_be(self, tmp_path: Path, changes: dict[str, Any], message: str):
        with pytest.raises((ConfigError, ModelError), match=message):
            load_vocoder(write_published(tmp_path / "v", PublishedHiFiGan(causal=False), **changes))

    def test_other_upsampling_networks_are_named(self, tmp_path: Path):
        network = PublishedParallelWaveGan(causal=False)
        network.params["upsample_net"] = "MelGANGenerator"
        with pytest.raises(ConfigError, match="'MelGANGenerator' is not supported"):
            load_vocoder(write_published(tmp_path / "v", network))

    def test_a_checkpoint_that_would_run_code(self, tmp_path: Path):
        folder = write_published(tmp_path / "v", PublishedHiFiGan(causal=False))
        torch.save({"model": {"generator": {}}, "extra": Path("x")}, folder / "checkpoint-7steps.pkl")
        with pytest.raises(ModelError, match="refused: reading it would run code"):
            load_vocoder(folder)

    def test_tensors_of_something_else(self, tmp_path: Path):
        network = PublishedHiFiGan(causal=False)
        for state, message in (
            (network.state | {"foo.weight": torch.ones(1)}, r"1 tensors are not of a hifi-gan generator \(first: foo"),
            ({n: t for n, t in network.state.items() if n != "input_conv.weight_g"}, "input has no complete weight"),
            (network.state | {"input_conv.bias": torch.ones(3)}, r"input.bias is \(3,\), expected \(16,\)"),
            (network.state | {"input_conv.bias": torch.full((16,), torch.nan)}, "hold NaN or infinity"),
        ):
            with pytest.raises(ModelError, match=message):
                load_vocoder(write_published(tmp_path / "v", network, state))
        torch.save({"model": network.state}, tmp_path / "v" / "checkpoint-7steps.pkl")
        with pytest.raises(ModelError, match="weights under 'model', 'generator'"):
            load_vocoder(tmp_path / "v")

    def test_statistics(self, tmp_path: Path):
        network = PublishedHiFiGan(causal=False)
        folder = write_published(tmp_path / "v", network)
        (folder / "stats.h5").unlink()
        with pytest.raises(ModelError, match=r"stats\.h5 or stats\.npy is missing"):
            load_vocoder(folder)
        np.save(folder / "stats.npy", np.stack([np.full(6, 2.0), np.full(6, 0.5)]))
        mel = torch.randn(1, 9, 6)
        expected = load_vocoder(write_published(tmp_path / "w", network)).synthesise((mel - 2) / 0.5)
        assert torch.allclose(load_vocoder(folder).synthesise(mel), expected, atol=1e-6)
        for array, message in (
            (np.ones((3, 6)), "expected two rows"),
            (np.ones((2, 5)), "5 values, expected 6"),
            (np.zeros((2, 6)), "scale above zero"),
            (np.array([{}, {}], dtype=object), "expected an array"),
        ):
            np.save(folder / "stats.npy", array, allow_pickle=True)
            with pytest.raises(ModelError, match=message):
                load_vocoder(folder)

    def test_folders_of_ours_with_faults(self, tmp_path: Path, home: Home):
        load_vocoder(write_published(tmp_path / "v", PublishedHiFiGan(causal=False)), home=home)
        (folder,) = [path for path in home.imported.iterdir() if path.name.startswith("v-")]
        good = yaml.safe_load((folder / "config.yaml").read_text())
        for change, message in (
            ({"kind": "wavenet"}, "kind: expected one of"),
            ({"spam": 1}, "spam: unknown key"),
            ({"generator": {**good["generator"], "channels": "many"}}, "generator.channels: should be a valid integer"),
            (
                {"generator": {**good["generator"], "upsample_scales": [0, 3]}},
                "upsample_scales: expected numbers above",
            ),
            ({"mel": {**good["mel"], "n_fft": 3}}, "mel.n_fft"),
        ):
            (folder / "config.yaml").write_text(yaml.safe_dump(good | change))
            with pytest.raises(ConfigError, match=message):
                load_vocoder(folder)
        (folder / "generator.safetensors").unlink()
        with pytest.raises(ModelError, match=r"generator\.safetensors is missing"):
            load_vocoder(folder)


class TestByName:
    def test_a_name_in_the_data_folder_comes_before_a_folder_here(
        self, home: Home, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        shutil.copytree(data / "vocoder-hifigan", home.vocoders / "mine")
        (tmp_path / "mine").mkdir()
        monkeypatch.chdir(tmp_path)
        assert find_vocoder(home, "mine") == home.vocoders / "mine"
        assert find_vocoder(home, "./mine") == Path("mine")

    def test_a_misspelt_name_suggests_the_nearest_and_a_strange_one_lists_all(self, home: Home):
        (home.vocoders / "pwg_jp_female").mkdir(parents=True)
        with pytest.raises(ModelError, match=r"did you mean pwg_jp_female\?"):
            find_vocoder(home, "pwg_jp_femal")
        with pytest.raises(ModelError, match="there is: griffin-lim, .*pwg_jp_female"):
            find_vocoder(home, "xyz")

    @pytest.mark.parametrize(
        ("key", "value", "shown"),
        [
            ("sample_rate", 22050, "sample_rate 24000, the model has 22050"),
            ("hop_length", 128, "hop_length 256, the model has 128"),
            ("n_fft", 2048, "n_fft 1024, the model has 2048"),
            ("win_length", 800, "win_length 1024, the model has 800"),
            ("n_mels", 40, "n_mels 80, the model has 40"),
            ("fmin", 80.0, "fmin 0.0, the model has 80.0"),
            ("fmax", 7600.0, "fmax 12000.0, the model has 7600.0"),
            ("log_base", None, "log_base 10.0, the model has e"),
        ],
    )
    def test_other_mel_settings_than_the_model_are_refused_with_both_values(self, data: Path, key, value, shown):
        mel = MelConfig(**{key: value})
        with pytest.raises(ModelError, match=f"vocoder-hifigan does not fit the model: .*{shown}"):
            build_vocoder(data / "vocoder-hifigan", mel)

    def test_settings_that_mean_the_same_fit(self, data: Path):
        vocoder = build_vocoder(data / "vocoder-hifigan", MelConfig(win_length=1024, fmax=12000.0))
        assert (vocoder.sample_rate, vocoder.hop_length) == (MelConfig().sample_rate, MelConfig().hop_length)

    def test_a_voice_without_a_vocoder_gets_the_universal_one_where_the_settings_mean_the_same(self):
        assert default_vocoder(MelConfig(win_length=1024, fmax=12000.0)) == "universal"
        for other in (MelConfig(sample_rate=8000), MelConfig(n_mels=40), MelConfig(log_base=None)):
            assert default_vocoder(other) == "griffin-lim"
