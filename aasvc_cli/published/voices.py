"""The published seq2seq-vc models: their key names, their configuration, their files.

This is the only place that knows them. A published model folder holds ``checkpoint-<steps>steps.pkl``, ``config.yml``
and ``stats.h5`` with the target's statistics.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aasvc_cli.config.reading import parse_config
from aasvc_cli.config.settings import Config
from aasvc_cli.config.yaml_files import read_config_file
from aasvc_cli.errors import ConfigError, ModelError
from aasvc_cli.features.kinds import FOLDER, model_kinds, with_widths
from aasvc_cli.features.speech_encoders import BUNDLES
from aasvc_cli.storage.files import reading

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from aasvc_cli.features.stats import FeatureStats

_MODEL_KEYS = {
    "idim": "source_dim",
    "odim": "target_dim",
    "duration_predictor_input_dim": "duration_dim",
    "adim": "width",
    "aheads": "n_heads",
    "elayers": "encoder_layers",
    "dlayers": "decoder_layers",
    "eunits": "encoder_hidden",
    "dunits": "decoder_hidden",
    "conformer_enc_kernel_size": "encoder_kernel",
    "conformer_dec_kernel_size": "decoder_kernel",
    "post_encoder_reduction_factor": "frames_per_token",
    "transformer_enc_dropout_rate": "encoder_dropout",
    "transformer_enc_positional_dropout_rate": "encoder_positional_dropout",
    "transformer_enc_attn_dropout_rate": "encoder_attention_dropout",
    "transformer_dec_dropout_rate": "decoder_dropout",
    "transformer_dec_positional_dropout_rate": "decoder_positional_dropout",
    "transformer_dec_attn_dropout_rate": "decoder_attention_dropout",
    "postnet_layers": "postnet_layers",
    "postnet_chans": "postnet_channels",
    "postnet_filts": "postnet_kernel",
    "postnet_dropout_rate": "postnet_dropout",
    "duration_predictor_type": "duration_predictor",
    "duration_predictor_layers": "duration_layers",
    "duration_predictor_chans": "duration_channels",
    "duration_predictor_kernel_size": "duration_kernel",
    "duration_predictor_dropout_rate": "duration_dropout",
    "stochastic_duration_predictor_kernel_size": "flow_kernel",
    "stochastic_duration_predictor_dropout_rate": "flow_dropout",
    "stochastic_duration_predictor_flows": "flow_count",
    "stochastic_duration_predictor_dds_conv_layers": "flow_layers",
    "stochastic_duration_predictor_noise_scale": "noise_scale",
}
_MODEL_DEFAULTS: dict[str, Any] = {
    # what the published constructor assumes where the file is silent
    "n_heads": 4,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "frames_per_token": 1,
    "encoder_kernel": 7,
    "decoder_kernel": 31,
    "encoder_dropout": 0.1,
    "encoder_positional_dropout": 0.1,
    "encoder_attention_dropout": 0.1,
    "decoder_dropout": 0.1,
    "decoder_positional_dropout": 0.1,
    "decoder_attention_dropout": 0.1,
    "postnet_channels": 512,
    "duration_predictor": "deterministic",
    "duration_channels": 384,
    "duration_input": "tokens",
}
_ONLY_VALUE: dict[str, tuple[Any, Any]] = {
    # the one value that is supported, and what the published constructor assumes where the file is silent
    "encoder_input_layer": ("linear", "linear"),
    "encoder_concat_after": (False, False),
    "decoder_concat_after": (False, False),
    "encoder_type": ("conformer", "conformer"),
    "decoder_type": ("conformer", "conformer"),
    "conformer_pos_enc_layer_type": ("rel_pos", "rel_pos"),
    "conformer_self_attn_layer_type": ("rel_selfattn", "rel_selfattn"),
    "spk_embed_dim": (None, None),
    # all published recipes agree on these
    "positionwise_layer_type": ("linear", "conv1d"),
    "encoder_normalize_before": (True, False),
    "decoder_normalize_before": (True, False),
    "use_macaron_style_in_conformer": (True, True),
    "use_cnn_in_conformer": (True, True),
    "encoder_reduction_factor": (1, 1),
    "decoder_reduction_factor": (1, 1),
    "use_batch_norm": (True, True),
}
_IGNORED = re.compile(
    r"init_type|use_masking|use_weighted_masking|use_scaled_pos_enc|encoder_input_conv_kernel_size"
    r"|positionwise_conv_kernel_size"
    r"|spk_embed_integration_type|diffsinger_.*|prodiff_.*"
)
"""Accepted and without effect in the published code: nothing is initialised or masked differently for them, linear
layers have no kernel, and the decoders of the last two cannot be chosen."""
_TRAIN_KEYS = {
    "batch_size": "batch_size",
    "gradient_accumulate_steps": "accum",
    "train_max_steps": "max_steps",
    "grad_norm": "grad_norm",
    "num_workers": "n_workers",
    "log_interval_steps": "log_every",
    "save_interval_steps": "save_every",
}


def is_published(tree: Mapping[str, Any]) -> bool:
    """Whether a YAML mapping is a configuration of the published code."""
    return "model_params" in tree or "model_type" in tree


def published_model_tree(params: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The ``model`` section of our configuration from the published ``model_params``, and what speaks against it."""
    tree: dict[str, Any] = dict(_MODEL_DEFAULTS)
    faults = []
    for key, value in params.items():
        if key in _MODEL_KEYS:
            tree[_MODEL_KEYS[key]] = value
        elif key == "duration_predictor_use_encoder_outputs":
            tree["duration_input"] = "tokens" if value else "feature"
        elif key not in _ONLY_VALUE and not _IGNORED.fullmatch(key):
            faults.append(f"model_params.{key}: unknown key")
    for key, (only, default) in _ONLY_VALUE.items():
        value = params.get(key, default)
        if value != only:
            silent = "" if key in params else " (what the published code assumes where nothing is said)"
            faults.append(f"model_params.{key}: {value!r}{silent} is not supported, only {only!r}")
    tree["duration_rounding"] = "ceil" if tree["duration_predictor"] == "stochastic" else "nearest"
    if tree.get("duration_dim") is None:
        tree["duration_dim"] = tree.get("source_dim")
    return tree, faults


def config_from_published(tree: Mapping[str, Any], origin: str) -> Config:
    """Our configuration from a published training YAML, in faithful mode.

    Raises:
        ConfigError: lists all that is unknown or not supported.
    """
    with reading(origin, "a configuration of the published code", lambda message: ConfigError(origin, [message])):
        sections = _sections(tree, origin)
    return parse_config(sections, origin)


def _sections(tree: Mapping[str, Any], origin: str) -> dict[str, Any]:
    faults = []
    if tree.get("model_type", "AASVC") != "AASVC":
        faults.append(f"model_type: {tree['model_type']!r} is not supported, only 'AASVC'")
    model, model_faults = published_model_tree(tree.get("model_params") or {})
    faults += model_faults
    mel = {
        "sample_rate": tree.get("sampling_rate", 24000),
        "n_fft": tree.get("fft_size", 1024),
        "hop_length": tree.get("hop_size", 256),
        "win_length": tree.get("win_length"),
        "n_mels": tree.get("num_mels", 80),
        "fmin": tree.get("fmin") or 0.0,
        "fmax": tree.get("fmax"),
        "log_base": tree.get("log_base", 10.0),
    }
    if tree.get("window", "hann") != "hann":
        faults.append(f"window: {tree['window']!r} is not supported, only 'hann'")
    kinds = {
        "source": tree.get("src_feat", "mel"),
        "target": tree.get("trg_feat", "mel"),
        "duration": tree.get("duration_predictor_feat", "mel"),
    }
    # what is not computed here was computed by another program, and is read from a folder; so were the features of
    # speech encoders, of which the file does not say which weights and which layer
    computed = set(model_kinds()) - set(BUNDLES)
    others = {str(kind) for name, kind in kinds.items() if kind not in computed and name != "target"}
    given = {"name": next(iter(others), None), "channels": model.get("source_dim")} if others else {}
    if len(others) > 1:
        faults.append(f"source and duration feature: {' and '.join(sorted(others))} are not available here together")
    if kinds["target"] not in model_kinds():
        faults.append(f"target feature {kinds['target']!r} is not available here; known are {', '.join(model_kinds())}")
    kinds = {name: FOLDER if kind in others else kind for name, kind in kinds.items()}
    if others and kinds["source"] != FOLDER:
        given["channels"] = model.get("duration_dim")
    if tree.get("trim_silence"):
        faults.append("trim_silence: true is not supported; trim the recordings before")
    gain = tree.get("global_gain_scale")
    if gain is not None and gain != 1.0:
        faults.append(f"global_gain_scale: {gain!r} is not supported, only 1.0; scale the recordings before")
    train = {key: tree[published] for published, key in _TRAIN_KEYS.items() if published in tree}
    optimiser = tree.get("optimizer_params") or {}
    for published, key in (("lr", "lr"), ("eps", "adam_eps"), ("weight_decay", "weight_decay")):
        if published in optimiser:
            train[key] = optimiser[published]
    if "betas" in optimiser:
        train["adam_beta1"], train["adam_beta2"] = optimiser["betas"]
    if tree.get("optimizer_type", "Adam") != "Adam":
        faults.append(f"optimizer_type: {tree['optimizer_type']!r} is not supported, only 'Adam'")
    scheduler = tree.get("scheduler_params") or {}
    if "warmup_steps" in scheduler:
        train["warmup_steps"] = scheduler["warmup_steps"]
    loss = {
        "align_weight": tree.get("lambda_align", 2.0),
        "duration_start_step": tree.get("dp_train_start_steps", 0),
    }
    if faults:
        raise ConfigError(origin, faults)
    return {"features": {**kinds, "mel": mel, "folder": given}, "model": model, "loss": loss, "train": train}


def _squeeze(tensor: Tensor) -> Tensor:
    return tensor.squeeze(-1)


def _keep(tensor: Tensor) -> Tensor:
    return tensor


_BLOCK = r"(encoder|decoder)\.encoders\.(\d+)\."
_RULES: list[tuple[re.Pattern[str], str, Callable[[Tensor], Tensor]]] = [
    (re.compile(pattern), replacement, change)
    for pattern, replacement, change in [
        (r"encoder\.embed\.0\.", "encoder.linear.", _keep),
        (r"encoder\.embed\.1\.", "encoder.norm.", _keep),
        (_BLOCK + r"self_attn\.linear_q\.", r"\1.blocks.\2.attention.query.", _keep),
        (_BLOCK + r"self_attn\.linear_k\.", r"\1.blocks.\2.attention.key.", _keep),
        (_BLOCK + r"self_attn\.linear_v\.", r"\1.blocks.\2.attention.value.", _keep),
        (_BLOCK + r"self_attn\.linear_out\.", r"\1.blocks.\2.attention.output.", _keep),
        (_BLOCK + r"self_attn\.linear_pos\.", r"\1.blocks.\2.attention.position.", _keep),
        (_BLOCK + r"self_attn\.pos_bias_u", r"\1.blocks.\2.attention.content_bias", _keep),
        (_BLOCK + r"self_attn\.pos_bias_v", r"\1.blocks.\2.attention.position_bias", _keep),
        (_BLOCK + r"(feed_forward|feed_forward_macaron)\.w_1\.", r"\1.blocks.\2.\3.expand.", _keep),
        (_BLOCK + r"(feed_forward|feed_forward_macaron)\.w_2\.", r"\1.blocks.\2.\3.contract.", _keep),
        (_BLOCK + r"conv_module\.pointwise_conv1\.weight", r"\1.blocks.\2.convolution.expand.weight", _squeeze),
        (_BLOCK + r"conv_module\.pointwise_conv1\.bias", r"\1.blocks.\2.convolution.expand.bias", _keep),
        (_BLOCK + r"conv_module\.depthwise_conv\.", r"\1.blocks.\2.convolution.depthwise.", _keep),
        (_BLOCK + r"conv_module\.norm\.", r"\1.blocks.\2.convolution.norm.", _keep),
        (_BLOCK + r"conv_module\.pointwise_conv2\.weight", r"\1.blocks.\2.convolution.contract.weight", _squeeze),
        (_BLOCK + r"conv_module\.pointwise_conv2\.bias", r"\1.blocks.\2.convolution.contract.bias", _keep),
        (_BLOCK + r"norm_ff_macaron\.", r"\1.blocks.\2.norm_feed_forward_macaron.", _keep),
        (_BLOCK + r"norm_ff\.", r"\1.blocks.\2.norm_feed_forward.", _keep),
        (_BLOCK + r"norm_mha\.", r"\1.blocks.\2.norm_attention.", _keep),
        (_BLOCK + r"norm_conv\.", r"\1.blocks.\2.norm_convolution.", _keep),
        (_BLOCK + r"norm_final\.", r"\1.blocks.\2.norm_output.", _keep),
        (r"(encoder|decoder)\.after_norm\.", r"\1.norm_output.", _keep),
        (r"duration_predictor\.pre\.weight", "duration_predictor.condition_input.weight", _squeeze),
        (r"duration_predictor\.pre\.bias", "duration_predictor.condition_input.bias", _keep),
        (r"duration_predictor\.proj\.weight", "duration_predictor.condition_output.weight", _squeeze),
        (r"duration_predictor\.proj\.bias", "duration_predictor.condition_output.bias", _keep),
        (r"duration_predictor\.post_pre\.weight", "duration_predictor.duration_input.weight", _squeeze),
        (r"duration_predictor\.post_pre\.bias", "duration_predictor.duration_input.bias", _keep),
        (r"duration_predictor\.post_proj\.weight", "duration_predictor.duration_output.weight", _squeeze),
        (r"duration_predictor\.post_proj\.bias", "duration_predictor.duration_output.bias", _keep),
        (r"duration_predictor\.(post_)?flows\.0\.m", r"duration_predictor.\1flows.affine.shift", _squeeze),
        (r"duration_predictor\.(post_)?flows\.0\.logs", r"duration_predictor.\1flows.affine.log_scale", _squeeze),
        (r"duration_predictor\.linear\.", "duration_predictor.output.", _keep),
        (r"duration_predictor\.conv\.(\d+)\.0\.", r"duration_predictor.convs.\1.", _keep),
        (r"duration_predictor\.conv\.(\d+)\.2\.", r"duration_predictor.norms.\1.", _keep),
        (r"duration_predictor_projection\.conv\.0\.", "duration_branch.conv1.", _keep),
        (r"duration_predictor_projection\.conv\.2\.", "duration_branch.conv2.", _keep),
        (r"duration_predictor_projection\.out\.", "duration_branch.output.", _keep),
        (r"alignment_module\.t_conv1\.", "aligner.token_conv1.", _keep),
        (r"alignment_module\.t_conv2\.weight", "aligner.token_conv2.weight", _squeeze),
        (r"alignment_module\.t_conv2\.bias", "aligner.token_conv2.bias", _keep),
        (r"alignment_module\.f_conv1\.", "aligner.frame_conv1.", _keep),
        (r"alignment_module\.f_conv2\.", "aligner.frame_conv2.", _keep),
        (r"alignment_module\.f_conv3\.weight", "aligner.frame_conv3.weight", _squeeze),
        (r"alignment_module\.f_conv3\.bias", "aligner.frame_conv3.bias", _keep),
        (r"feat_out\.", "output.", _keep),
        (r"postnet\.postnet\.(\d+)\.0\.", r"postnet.convs.\1.", _keep),
        (r"postnet\.postnet\.(\d+)\.1\.", r"postnet.norms.\1.", _keep),
    ]
]
_MOST_STATISTICS = 100_000
_STACK_LAYERS = {"0": "depthwise", "2": "norms_depthwise", "5": "pointwise", "7": "norms_pointwise"}


def native_name(published: str) -> tuple[str, Callable[[Tensor], Tensor]] | None:
    """Our name of a published tensor and how its shape changes; None if the name is not known."""
    name, change = published, _keep
    coupling = re.fullmatch(r"duration_predictor\.(post_)?flows\.(\d+)\.(input_conv|proj|dds_conv)(\..*)", name)
    if coupling:
        post, index, part, rest = coupling.groups()
        chain = f"duration_predictor.{'posterior' if post else 'flows'}.couplings.{(int(index) - 1) // 2}"
        part = {"input_conv": "input", "proj": "output", "dds_conv": "stack"}[part]
        name = f"{chain}.{part}{rest}"
        if part != "stack":
            return name, _squeeze if rest == ".weight" else _keep
    else:
        name = re.sub(r"^duration_predictor\.dds\.", "duration_predictor.condition_stack.", name)
        name = re.sub(r"^duration_predictor\.post_dds\.", "duration_predictor.duration_stack.", name)
    stack = re.fullmatch(r"(.*_stack|.*\.stack)\.convs\.(\d+)\.([0257])\.(weight|bias)", name)
    if stack:
        base, layer, position, kind = stack.groups()
        change = _squeeze if position == "5" and kind == "weight" else _keep
        return f"{base}.{_STACK_LAYERS[position]}.{layer}.{kind}", change
    for pattern, replacement, rule_change in _RULES:
        if pattern.match(name):
            native = pattern.sub(replacement, name, count=1)
            native = native.replace("duration_predictor.post_flows.", "duration_predictor.posterior.")
            native = re.sub(r"^encoder\.(blocks|norm_output)", r"encoder.conformer.\1", native)
            return native, rule_change
    return None


def convert_state(published: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """Our state dictionary from a published one.

    Raises:
        ModelError: names that are not known.
    """
    state: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in published.items():
        place = native_name(name) if isinstance(name, str) and hasattr(tensor, "squeeze") else None
        if place is None:
            unknown.append(name)
        else:
            state[place[0]] = place[1](tensor)
    if unknown:
        raise ModelError(f"{origin}: {len(unknown)} tensors are not of an AAS-VC model (first: {str(unknown[0])[:60]})")
    return state


def is_published_folder(folder: Path) -> bool:
    """Whether a folder has the published layout."""
    return (folder / "config.yml").is_file() and bool(published_checkpoints(folder))


def published_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a published folder, by number of steps."""
    numbered = []
    for path in folder.glob("checkpoint-*steps.pkl"):
        match = re.fullmatch(r"checkpoint-(\d+)steps", path.stem)
        if match:
            numbered.append((int(match.group(1)), path))
    return [path for _, path in sorted(numbered)]


def load_published_checkpoint(path: Path) -> dict[str, Any]:
    """What a published checkpoint file holds, read without executing anything in it.

    Tensors stay on the disk until they are used, so that an optimiser's state costs nothing.

    Raises:
        ModelError: unreadable, or needs more than plain tensors.
    """
    import pickle
    import zipfile

    import torch

    with reading(path, "a complete checkpoint", ModelError):
        try:
            # files from before PyTorch 1.6 are no zip archives and cannot be mapped
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except pickle.UnpicklingError as error:
            reason = _first_line(error)
            raise ModelError(f"{path}: refused: reading it would run code, or it is no checkpoint ({reason})") from None
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("model"), dict):
        raise ModelError(f"{path}: expected a dictionary with the entry 'model', as the published training writes it")
    return checkpoint


def load_published_state(path: Path) -> dict[str, Tensor]:
    """Our state dictionary from a published checkpoint file; raises ModelError."""
    return convert_state(load_published_checkpoint(path)["model"], str(path))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def read_h5_stats(path: Path, kind: str = "mel") -> FeatureStats:
    """Mean and scale from a published ``stats.h5``.

    Raises:
        ModelError: missing, not HDF5, or without ``<kind>_mean`` and ``<kind>_scale``.
    """
    from aasvc_cli.features.stats import FeatureStats

    arrays = read_h5_arrays(path, (f"{kind}_mean", f"{kind}_scale"))
    return FeatureStats(mean=arrays[f"{kind}_mean"], scale=arrays[f"{kind}_scale"], n_frames=0)


def read_h5_arrays(path: Path, names: Sequence[str]) -> dict[str, npt.NDArray[np.float32]]:
    """Float arrays of an HDF5 file by name; raises ModelError that lists what it has instead."""
    import h5py
    import numpy as np

    if not path.exists():
        raise ModelError(f"{path}: no such file; the published layout has statistics there")
    with reading(path, "HDF5", ModelError), h5py.File(path, "r") as stream:
        stored = sorted(stream)
        if not set(names) <= set(stored):
            raise ModelError(f"{path}: expected {' and '.join(names)}, found {', '.join(stored) or 'nothing'}")
        for name in names:
            if stream[name].size > _MOST_STATISTICS:
                raise ModelError(f"{path}: {name} has shape {stream[name].shape}, expected one number per dimension")
        return {name: np.asarray(stream[name], dtype=np.float32) for name in names}


def published_files(folder: Path) -> list[Path]:
    """The files of a published model folder that are read: configuration, last checkpoint, statistics."""
    return [folder / "config.yml", _last_checkpoint(folder), folder / "stats.h5"]


def read_published_voice(
    folder: Path, *, weights: bool = True
) -> tuple[Config, dict[str, Tensor], FeatureStats, dict[str, Any]]:
    """Configuration, weights, target statistics and model card of a published folder; the last checkpoint is taken.

    Args:
        weights: whether to read them

    Raises:
        ModelError, ConfigError: what is missing or not supported.
        DataError: the statistics are impossible.
    """
    from aasvc_cli.features.stats import FeatureStats

    path = folder / "config.yml"
    tree = read_config_file(path)
    if "generator_params" in tree or "generator_type" in tree:
        raise ModelError(f"{folder}: holds a vocoder, not a voice; pass it as --vocoder")
    checkpoint = _last_checkpoint(folder)
    config = with_widths(config_from_published(tree, str(path)), str(path))
    stats = folder / "stats.h5"
    target = FeatureStats.from_tree(read_h5_stats(stats, config.features.target).to_tree(), str(stats))
    card = {
        "name": folder.absolute().name,
        "step": int(checkpoint.stem.removeprefix("checkpoint-").removesuffix("steps")),
        "source_speaker": _source_speaker(tree),
        "vocoder": _vocoder_name(tree),
    }
    return config, load_published_state(checkpoint) if weights else {}, target, card


def _last_checkpoint(folder: Path) -> Path:
    checkpoints = published_checkpoints(folder)
    if not checkpoints:
        raise ModelError(f"{folder}: no checkpoint-<steps>steps.pkl")
    return checkpoints[-1]


def _source_speaker(tree: Mapping[str, Any]) -> str | None:
    """Who a model was trained to hear: its training data were in ``dump/<speaker>_train_parallel/...``."""
    match = re.search(r"(?:^|/)([^/]+)_train[^/]*(?:/|$)", str(tree.get("src_train_dumpdir") or ""))
    return match.group(1) if match else None


def _vocoder_name(tree: Mapping[str, Any]) -> str | None:
    """Name of the vocoder that a model was trained with: the folder of its checkpoint."""
    vocoder = tree.get("vocoder")
    checkpoint = vocoder.get("checkpoint") if isinstance(vocoder, dict) else None
    return Path(str(checkpoint)).parent.name or None if checkpoint else None
