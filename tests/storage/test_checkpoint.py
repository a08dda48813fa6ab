"""Checkpoints that change while they are read."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors
import torch

from aasvc_cli.errors import ModelError
from aasvc_cli.storage.checkpoint import load_arrays, load_checkpoint, save_checkpoint


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The library opens a file twice: here, a training writes its next checkpoint in between."""
    path, opens = tmp_path / "last.safetensors", safetensors.safe_open
    save_checkpoint(path, {"w": torch.zeros(3)}, {"step": 1})
    replaced = []

    class OpensTwice:
        def __init__(self, name: str, **options: str) -> None:
            self.first = opens(name, **options)
            if not replaced:
                replaced.append(True)
                save_checkpoint(path, {"w": torch.ones(3)}, {"step": 2})
            self.second = opens(name, **options)

        def __enter__(self) -> OpensTwice:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def metadata(self) -> dict[str, str]:
            return self.first.metadata()

        def keys(self) -> list[str]:
            return list(self.first.keys())

        def get_tensor(self, name: str) -> torch.Tensor:
            return self.second.get_tensor(name)

    monkeypatch.setattr(safetensors, "safe_open", OpensTwice)
    tensors, header = load_checkpoint(path)
    assert header == {"step": 2}
    assert tensors["w"].tolist() == [1, 1, 1]


def test_a_changed_byte_is_refused_at_once(tmp_path: Path):
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, {"w": torch.zeros(3)}, {"step": 1})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match="the checksum differs"):
        load_checkpoint(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_tensors_of_every_type_and_shape_are_read_as_they_were_written(tmp_path: Path, dtype: torch.dtype):
    grid = torch.arange(6).reshape(2, 3).to(dtype)
    written = {"grid": grid, "turned": grid.T.clone(), "number": grid[1, 2].clone(), "none": grid[:0].clone()}
    save_checkpoint(tmp_path / "last.safetensors", written, {})
    found, _ = load_checkpoint(tmp_path / "last.safetensors")
    assert found.keys() == written.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in written.items())
    assert {tensor.dtype for tensor in found.values()} == {dtype}


def test_arrays_are_the_tensors_without_torch_and_a_changed_byte_is_refused(tmp_path: Path):
    path = tmp_path / "weights.safetensors"
    tensors = {"half": torch.randn(3, 4).half(), "whole": torch.arange(5), "single": torch.tensor(2.5)}
    save_checkpoint(path, tensors, {"step": 1})
    arrays = load_arrays(path)
    assert {name: torch.from_numpy(array).tolist() for name, array in arrays.items()} == {
        name: tensor.tolist() for name, tensor in tensors.items()
    }
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match="complete safetensors file"):
        load_arrays(path)
