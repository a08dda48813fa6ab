"""Weights and training state: safetensors with a JSON header and a checksum, one file each, written atomically."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aasvc_cli.errors import ModelError
from aasvc_cli.storage.files import atomic_write, reading

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch
    from torch import Tensor

_HEADER, _CHECKSUM = "aasvc", "crc32"


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write named tensors and a JSON-able header, straight from their memory; raises StorageError."""
    from safetensors import SafetensorError

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(dict(header), ensure_ascii=False)
    with atomic_write(path) as stream:
        try:
            _write(contiguous, stream.name, {_HEADER: text, _CHECKSUM: str(_checksum(text, contiguous))})
        except SafetensorError as error:
            # the library turns the operating system's error into text
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number.group(1)) if number else 0, str(error)) from None


def _write(tensors: Mapping[str, Tensor], path: str, metadata: dict[str, str]) -> None:
    """Write contiguous tensors; raises SafetensorError."""
    import safetensors.numpy
    import safetensors.torch
    import torch

    if any(tensor.dtype == torch.bfloat16 for tensor in tensors.values()):  # which numpy does not know
        safetensors.torch.save_file(dict(tensors), path, metadata)
    else:  # the same file, in a third of the time where there are many small tensors
        safetensors.numpy.save_file({name: tensor.numpy() for name, tensor in tensors.items()}, path, metadata)


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors (on the CPU) and header; older files without a checksum are read, too.

    Raises:
        ModelError: missing, damaged, or not written by :func:`save_checkpoint`.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such checkpoint")
    advice = "copy it again, or go back to another checkpoint"
    with (
        reading(path, "a complete safetensors file", ModelError, advice=advice),
        path.open("rb") as opened,  # safetensors takes a file that it may not open for one that does not exist
    ):
        try:
            return _content(path)
        except Exception:
            if os.path.samestat(os.fstat(opened.fileno()), path.stat()):
                raise
    # safetensors opens a file twice, and a training may have replaced it in between
    return load_checkpoint(path)


def _content(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header; raises what safetensors raises, and ValueError for a wrong checksum."""
    from safetensors import safe_open

    with safe_open(os.fspath(path), framework="pt", device="cpu") as stream:
        metadata = stream.metadata() or {}
        text = metadata.get(_HEADER, "{}")
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}
    if _CHECKSUM in metadata:
        _compare(metadata, _checksum(text, tensors))
    return tensors, dict(json.loads(text))


def load_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The tensors of :func:`load_checkpoint` where there is no torch, none of them in bfloat16; raises ModelError."""
    from safetensors import safe_open

    with reading(path, "a complete safetensors file", ModelError), safe_open(os.fspath(path), framework="np") as stream:
        metadata = stream.metadata() or {}
        arrays = {name: stream.get_tensor(name) for name in stream.keys()}
        parts = {name: (f"torch.{array.dtype.name}", array.shape, array.data) for name, array in arrays.items()}
        _compare(metadata, _crc32(metadata.get(_HEADER, "{}"), parts))
    return arrays


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 of a header and of contiguous tensors, by name."""
    import torch

    parts = {
        name: (str(tensor.dtype), tensor.shape, tensor.reshape(-1).view(torch.uint8).numpy().data)
        for name, tensor in tensors.items()
    }
    return _crc32(text, parts)


def _crc32(text: str, parts: Mapping[str, tuple[str, Sequence[int], memoryview]]) -> int:
    """Of a header, and of type, shape and content by name."""
    checksum = zlib.crc32(text.encode())
    for name, (kind, shape, content) in sorted(parts.items()):
        checksum = zlib.crc32(f"{name} {kind} {list(shape)}".encode(), checksum)
        checksum = zlib.crc32(content, checksum)
    return checksum


def _compare(metadata: Mapping[str, str], checksum: int) -> None:
    """Raise ValueError if a file that has a checksum has another one."""
    if metadata.get(_CHECKSUM, str(checksum)) != str(checksum):
        raise ValueError("its content is not what was written (the checksum differs)")


def load_weights(network: torch.nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Fill a network strictly; one that was built on the ``meta`` device gets its memory here.

    Args:
        origin: names the weights in messages

    Raises:
        ModelError: tensors are missing, unknown, of another shape, or not finite.
    """
    import torch

    expected = network.state_dict()
    shapes = [
        f"{name} is {tuple(tensors[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    groups = {
        "missing": [name for name in expected if name not in tensors],
        "unexpected": [name for name in tensors if name not in expected],
        "of another shape": shapes,
    }
    if faults := [f"{len(names)} {what} (first: {names[0]})" for what, names in groups.items() if names]:
        raise ModelError(
            f"{origin}: the weights do not fit the configuration beside them: tensors {', '.join(faults)}; both must "
            "come from the same run"
        )
    with reading(origin, "weights in floating point", ModelError):
        broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
        if broken:
            raise ModelError(
                f"{origin}: {len(broken)} tensors hold NaN or infinity (first: {broken[0]}); use another one"
            )
        bare = any(tensor.is_meta for tensor in expected.values())
        weights = {name: tensors[name].to(tensor.dtype, copy=bare) for name, tensor in expected.items()}
        network.load_state_dict(weights, assign=bare)
