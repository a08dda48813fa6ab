"""Logs of a run for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aasvc_cli.errors import MissingExtraError


class Board:
    """The numbers of a log as TensorBoard shows them.

    Raises:
        MissingExtraError: TensorBoard is not installed; known before any work.
    """

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingExtraError("TensorBoard is not installed; run: pip install 'aasvc[tensorboard]'") from None
        self._writer_class = SummaryWriter
        self._writer: Any = None

    def open(self, folder: Path, step: int) -> None:
        """Begin or go on in a folder; what it shows after ``step`` is discarded."""
        self._writer = self._writer_class(folder, purge_step=step + 1)

    def log(self, entry: Mapping[str, Any]) -> None:
        """Add the numbers of one entry; nothing before :meth:`open`."""
        if self._writer is None:
            return
        for name, value in entry.items():
            if name != "step" and isinstance(value, (int, float)):
                self._writer.add_scalar(f"{entry['kind']}/{name}", value, entry["step"])

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()
