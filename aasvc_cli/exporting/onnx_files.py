"""PyTorch modules as ONNX files: one opset, open lengths, no external data, with checksum and metadata."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aasvc_cli import __version__
from aasvc_cli.conversion.exported import sealed
from aasvc_cli.errors import MissingExtraError

OPSET = 20
"""Of the standard operators; onnxruntime and onnxruntime-web read its files from 1.18 on."""
_SMALL = 1024
"""Constants of fewer numbers are not worth shortening."""

Inputs = Mapping[str, tuple[Tensor, Mapping[int, str]]]
"""An example of each input by its name, and the names of its open dimensions."""


def onnx_bytes(graph: nn.Module, inputs: Inputs, outputs: Sequence[str], metadata: Mapping[str, Any]) -> bytes:
    """A module as the content of an ONNX file.

    Weights that float16 holds exactly are stored so, and are float32 again once the file is loaded.

    Args:
        inputs: named as the arguments of ``forward``
        outputs: names of the results
        metadata: JSON-able by its name; text stays as it is

    Raises:
        MissingExtraError: the extra ``onnx`` is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"an export needs onnx and onnxscript ({error}); run: pip install 'aasvc[onnx]'"
        ) from None
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph.eval(),
            kwargs={name: example for name, (example, _) in inputs.items()},
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes={name: dict(lengths) for name, (_, lengths) in inputs.items()},
            opset_version=OPSET,
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _shorten(model)
    for name, value in {"producer": f"aasvc {__version__}", **metadata}.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return sealed(bytes(model.SerializeToString()))


def _shorten(model: Any) -> None:
    """Store float32 constants as float16 where that loses nothing, and turn them back in the graph."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for constant in model.graph.initializer:
        if constant.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(constant)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if values.size < _SMALL or not np.array_equal(half.astype(np.float32), values):
            continue
        name = constant.name
        constant.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter talks of packages that are not needed, on standard output, too."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
