"""The published ParallelWaveGAN and HiFi-GAN vocoders: their key names, their configuration, their files.

A published vocoder folder holds ``config.yml``, ``checkpoint-<steps>steps.pkl`` and ``stats.h5`` or ``stats.npy`` with
the statistics that its mels are normalised with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aasvc_cli.config.reading import parse_section
from aasvc_cli.config.settings import MelConfig
from aasvc_cli.config.yaml_files import read_config_file
from aasvc_cli.errors import ConfigError, ModelError
from aasvc_cli.published.voices import load_published_checkpoint, published_checkpoints, read_h5_arrays
from aasvc_cli.storage.files import reading

if TYPE_CHECKING:
    from torch import Tensor

_HIFI_GAN, _PARALLEL_WAVEGAN = "HiFiGANGenerator", "ParallelWaveGANGenerator"
_KIND = {_HIFI_GAN: "hifi-gan", _PARALLEL_WAVEGAN: "parallel-wavegan"}
_SAME_NAME = {
    _HIFI_GAN: (
        "in_channels", "channels", "kernel_size", "upsample_scales", "resblock_kernel_sizes", "resblock_dilations",
        "use_additional_convs", "use_causal_conv",
    ),
    _PARALLEL_WAVEGAN: (
        "aux_channels", "aux_context_window", "kernel_size", "layers", "stacks", "residual_channels", "gate_channels",
        "skip_channels", "use_causal_conv", "upsample_net",
    ),
}  # fmt: skip
_ONLY_VALUE: dict[str, dict[str, Any]] = {
    _HIFI_GAN: {"out_channels": 1},
    _PARALLEL_WAVEGAN: {"in_channels": 1, "out_channels": 1, "upsample_conditional_features": True},
}
# dropout does nothing outside training; weight norm is seen from the names of the tensors
_IGNORED = ("dropout", "use_weight_norm", "bias")


@dataclass(frozen=True, eq=False)
class PublishedVocoder:
    """What a published vocoder folder holds, in our terms.

    Attributes:
        kind: which network: ``hifi-gan`` or ``parallel-wavegan``
        mel: the settings of the log-mels that it was trained on
        generator: its sizes
        tensors: its weights by our names, with ``mean`` and ``scale`` (M,) of its mels
        origin: ``steps`` that it was trained for
    """

    kind: str
    mel: MelConfig
    generator: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    origin: Mapping[str, Any]


def is_published_vocoder(folder: Path) -> bool:
    """Whether a folder has the published layout and holds a vocoder."""
    path = folder / "config.yml"
    if not path.is_file() or not published_checkpoints(folder):
        return False
    tree = read_config_file(path)
    return "generator_params" in tree or "generator_type" in tree


def published_vocoder_files(folder: Path) -> list[Path]:
    """The files of a published vocoder folder that are read."""
    return [folder / "config.yml", published_checkpoints(folder)[-1], _statistics_file(folder)]


def read_published_vocoder(folder: Path) -> PublishedVocoder:
    """A published vocoder folder in our terms; of several checkpoints the last is taken.

    Raises:
        ModelError, ConfigError: what is missing, damaged or not supported.
    """
    import torch

    path = folder / "config.yml"
    tree = read_config_file(path)
    what = "a configuration of the published code"
    with reading(path, what, lambda message: ConfigError(str(path), [message])):
        kind, mel, generator = _settings(tree, str(path))
    checkpoint = published_checkpoints(folder)[-1]
    loaded = load_published_checkpoint(checkpoint)
    model = loaded.get("model")
    published = model.get("generator") if isinstance(model, dict) else None
    if not isinstance(published, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in published.items()
    ):
        raise ModelError(f"{checkpoint}: expected weights under 'model', 'generator', as vocoder training writes them")
    bias = bool((tree.get("generator_params") or {}).get("bias", True))
    with reading(checkpoint, "weights of a vocoder", ModelError):
        tensors = convert_generator(published, kind, str(checkpoint), bias=bias)
    mean, scale = _statistics(folder, mel.n_mels)
    tensors |= {"mean": mean, "scale": scale}
    return PublishedVocoder(kind, mel, generator, tensors, {"steps": _steps(checkpoint)})


def _steps(checkpoint: Path) -> int:
    return int(checkpoint.stem.removeprefix("checkpoint-").removesuffix("steps"))


def _settings(tree: Mapping[str, Any], origin: str) -> tuple[str, MelConfig, dict[str, Any]]:
    """Kind, mel settings and our generator sizes; raises ConfigError with everything that is not supported."""
    name = tree.get("generator_type", _PARALLEL_WAVEGAN)
    if name not in list(_KIND):
        raise ConfigError(origin, [f"generator_type: {name!r} is not supported, only {' and '.join(_KIND)}"])
    params = tree.get("generator_params") or {}
    if not isinstance(params, dict):
        raise ConfigError(origin, ["generator_params: expected a mapping"])
    params = dict(params)
    if "upsample_kernal_sizes" in params:  # as early versions spelt it
        params.setdefault("upsample_kernel_sizes", params.pop("upsample_kernal_sizes"))
    faults: list[str] = []
    generator: dict[str, Any] = {}
    upsampling = params.pop("upsample_params", None) if name == _PARALLEL_WAVEGAN else None
    for key, value in params.items():
        if key in _SAME_NAME[name]:
            generator[key] = value
        elif key in _ONLY_VALUE[name]:
            if value != _ONLY_VALUE[name][key]:
                faults.append(f"generator_params.{key}: {value!r} is not supported, only {_ONLY_VALUE[name][key]!r}")
        elif key == "nonlinear_activation" and name == _HIFI_GAN:
            _only_leaky_relu(value, f"generator_params.{key}", faults)
        elif key == "nonlinear_activation_params" and name == _HIFI_GAN:
            generator["negative_slope"] = _slope(value, f"generator_params.{key}", 0.01, faults)
        elif key == "upsample_kernel_sizes" and name == _HIFI_GAN:
            scales = list(params.get("upsample_scales", (8, 8, 2, 2)))
            if list(value) != [2 * scale for scale in scales]:
                faults.append(f"generator_params.{key}: {value} is not supported, only twice the scales {scales}")
        elif key not in _IGNORED:
            faults.append(f"generator_params.{key}: unknown key")
    if upsampling is not None:
        _read_upsampling(upsampling, generator, faults)
    if tree.get("window", "hann") != "hann":
        faults.append(f"window: {tree['window']!r} is not supported, only 'hann'")
    if tree.get("sampling_rate_for_feats") not in (None, tree.get("sampling_rate")):
        faults.append("sampling_rate_for_feats: another rate than sampling_rate is not supported")
    if faults:
        raise ConfigError(origin, faults)
    mel = {
        "sample_rate": tree.get("sampling_rate"),
        "n_fft": tree.get("fft_size"),
        "hop_length": tree.get("hop_size"),
        "win_length": tree.get("win_length"),
        "n_mels": tree.get("num_mels", 80),
        "fmin": tree.get("fmin") or 0.0,
        "fmax": tree.get("fmax"),
        "log_base": tree.get("log_base", 10.0),
    }
    return _KIND[name], parse_section(MelConfig, mel, "", origin), generator


def _read_upsampling(tree: Any, generator: dict[str, Any], faults: list[str]) -> None:
    where = "generator_params.upsample_params"
    if not isinstance(tree, dict):
        faults.append(f"{where}: expected a mapping")
        return
    for key, value in tree.items():
        if key in ("upsample_scales", "freq_axis_kernel_size"):
            generator[key] = value
        elif key == "nonlinear_activation":
            if value is not None:
                _only_leaky_relu(value, f"{where}.{key}", faults)
                given = tree.get("nonlinear_activation_params") or {}
                generator["upsample_slope"] = _slope(given, f"{where}.nonlinear_activation_params", 0.01, faults)
        elif key == "interpolate_mode":
            if value != "nearest":
                faults.append(f"{where}.{key}: {value!r} is not supported, only 'nearest'")
        elif key not in ("aux_channels", "aux_context_window", "use_causal_conv", "nonlinear_activation_params"):
            # those four the published constructor replaces by the generator's own, or they were read above
            faults.append(f"{where}.{key}: unknown key")


def _only_leaky_relu(value: Any, where: str, faults: list[str]) -> None:
    if value != "LeakyReLU":
        faults.append(f"{where}: {value!r} is not supported, only 'LeakyReLU'")


def _slope(params: Any, where: str, default: float, faults: list[str]) -> float:
    if not isinstance(params, dict):
        faults.append(f"{where}: expected a mapping")
        return default
    faults += [f"{where}.{key}: unknown key" for key in params if key not in ("negative_slope", "inplace")]
    return params.get("negative_slope", default)


_RULES: dict[str, list[tuple[str, str]]] = {
    "hifi-gan": [
        (r"input_conv\.(?:conv\.)?", "input."),
        (r"upsamples\.(\d+)\.1\.(?:deconv\.)?", r"upsamples.\1."),
        (r"blocks\.(\d+)\.convs1\.(\d+)\.1\.(?:conv\.)?", r"blocks.\1.dilated.\2."),
        (r"blocks\.(\d+)\.convs2\.(\d+)\.1\.(?:conv\.)?", r"blocks.\1.plain.\2."),
        (r"output_conv\.1\.(?:conv\.)?", "output."),
    ],
    "parallel-wavegan": [
        (r"first_conv\.", "input."),
        (r"upsample_net\.conv_in\.", "context."),
        (r"conv_layers\.(\d+)\.conv\.", r"layers.\1.conv."),
        (r"conv_layers\.(\d+)\.conv1x1_aux\.", r"layers.\1.aux."),
        (r"conv_layers\.(\d+)\.conv1x1_out\.", r"layers.\1.residual."),
        (r"conv_layers\.(\d+)\.conv1x1_skip\.", r"layers.\1.skip."),
        (r"last_conv_layers\.1\.", "hidden."),
        (r"last_conv_layers\.3\.", "output."),
    ],
}
_PARTS = {
    "weight": "weight",
    "bias": "bias",
    "weight_g": "gain",
    "weight_v": "direction",
    "parametrizations.weight.original0": "gain",
    "parametrizations.weight.original1": "direction",
}


def convert_generator(
    published: Mapping[str, Tensor], kind: str, origin: str, *, bias: bool = True
) -> dict[str, Tensor]:
    """Our tensors from published ones, weight normalisation folded in whichever form it is there.

    Args:
        bias: whether the published network has biases everywhere; absent ones are zero if not

    Raises:
        ModelError: names that are not known, or half of a normalised weight.
    """
    import torch

    stages = sorted({int(m.group(1)) for name in published if (m := re.search(r"\.up_layers\.(\d+)\.", name))})
    modules: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for name, tensor in published.items():
        if name in ("mean", "scale"):  # buffers that some checkpoints have; the file beside it is what counts
            continue
        place = _place(name, kind, stages)
        if place is None:
            unknown.append(name)
        else:
            modules.setdefault(place[0], {})[place[1]] = tensor.detach().float()
    if unknown:
        raise ModelError(f"{origin}: {len(unknown)} tensors are not of a {kind} generator (first: {unknown[0]})")
    tensors: dict[str, Tensor] = {}
    for module, parts in modules.items():
        if "weight" not in parts and not {"gain", "direction"} <= set(parts):
            raise ModelError(f"{origin}: {module} has no complete weight (found: {', '.join(sorted(parts))})")
        if "weight" in parts:
            tensors[f"{module}.weight"] = parts["weight"]
        else:
            direction = parts["direction"]
            norm = torch.linalg.vector_norm(direction, dim=tuple(range(1, direction.ndim)), keepdim=True)
            tensors[f"{module}.weight"] = direction * (parts["gain"] / norm)
        if "bias" in parts:
            tensors[f"{module}.bias"] = parts["bias"]
        elif not bias and not re.fullmatch(r"context|upsamples\.\d+|layers\.\d+\.aux", module):
            weight = tensors[f"{module}.weight"]
            tensors[f"{module}.bias"] = weight.new_zeros(weight.shape[0])
        elif not bias and kind == "hifi-gan":
            weight = tensors[f"{module}.weight"]  # of a transposed convolution: inputs come first
            tensors[f"{module}.bias"] = weight.new_zeros(weight.shape[1])
    return tensors


def _place(name: str, kind: str, stages: list[int]) -> tuple[str, str] | None:
    """Module of ours and part of its weight that a published tensor is; None if the name is not known."""
    stage = re.fullmatch(r"upsample_net\.(?:upsample\.)?up_layers\.(\d+)\.(.+)", name)
    if stage and kind == "parallel-wavegan":
        # only the convolutions among the published layers have weights
        module, part = f"upsamples.{stages.index(int(stage.group(1)))}", stage.group(2)
        return (module, _PARTS[part]) if part in _PARTS else None
    for pattern, replacement in _RULES[kind]:
        match = re.match(pattern, name)
        if match:
            part = name[match.end() :]
            return (match.expand(replacement).rstrip("."), _PARTS[part]) if part in _PARTS else None
    return None


def _statistics_file(folder: Path) -> Path:
    path = next((folder / name for name in ("stats.h5", "stats.npy") if (folder / name).is_file()), None)
    if path is None:
        raise ModelError(f"{folder}: stats.h5 or stats.npy is missing; copy it from where the vocoder comes from")
    return path


def _statistics(folder: Path, n_mels: int) -> tuple[Tensor, Tensor]:
    """Mean and scale that the vocoder's mels are normalised with: (M,) each."""
    import numpy as np
    import torch

    path = _statistics_file(folder)
    if path.suffix == ".h5":
        arrays = read_h5_arrays(path, ("mean", "scale"))
    else:
        with reading(path, "an array", ModelError):
            # mapped, as the header may ask for more memory than there is
            stacked = np.load(path, allow_pickle=False, mmap_mode="r")
        if stacked.ndim < 2 or len(stacked) != 2:
            raise ModelError(f"{path}: expected two rows, mean and scale, found shape {stacked.shape}")
        arrays = {"mean": stacked[0], "scale": stacked[1]}
    with reading(path, "mean and scale in numbers", ModelError):
        mean, scale = (np.asarray(arrays[name], dtype=np.float32).reshape(-1) for name in ("mean", "scale"))
    for name, values in (("mean", mean), ("scale", scale)):
        if values.shape != (n_mels,):
            raise ModelError(f"{path}: {name} has {values.size} values, expected {n_mels}, one per mel band")
    if not (np.isfinite(mean).all() and np.isfinite(scale).all() and (scale > 0).all()):
        raise ModelError(f"{path}: expected finite numbers, and scale above zero")
    return torch.from_numpy(mean.copy()), torch.from_numpy(scale.copy())
