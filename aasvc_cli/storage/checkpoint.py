"""Weights and training state: safetensors with a JSON header, one file each, written atomically."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aasvc_cli.errors import ModelError
from aasvc_cli.storage.files import atomic_write, storage_error

if TYPE_CHECKING:
    from torch import Tensor

_HEADER = "aasvc"


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write named tensors and a JSON-able header, straight from their memory; raises StorageError."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as stream:
        try:
            save_file(contiguous, stream.name, metadata={_HEADER: json.dumps(dict(header), ensure_ascii=False)})
        except SafetensorError as error:
            # the library turns the operating system's error into text
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number.group(1)) if number else 0, str(error)) from None


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors (on the CPU) and header.

    Raises:
        ModelError: missing, truncated, or not written by :func:`save_checkpoint`.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ModelError(f"{path}: no such checkpoint")
    try:
        path.open("rb").close()  # safetensors takes a file that it may not open for one that does not exist
        with safe_open(os.fspath(path), framework="pt", device="cpu") as stream:
            header = json.loads((stream.metadata() or {}).get(_HEADER, "{}"))
            return {name: stream.get_tensor(name) for name in stream.keys()}, header
    except SafetensorError as error:
        raise ModelError(
            f"{path}: not a complete safetensors file ({error}); it was cut short or altered - copy it again, or go "
            "back to another checkpoint"
        ) from None
    except OSError as error:
        raise storage_error("read", path, error) from None
