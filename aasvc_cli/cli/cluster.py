"""Options that spread a command over several machines."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from aasvc_cli import __version__
from aasvc_cli.cli.options import machine_option
from aasvc_cli.cli.output import home_folder

if TYPE_CHECKING:
    from aasvc_cli.storage.parts import Shard
    from aasvc_cli.workers import Workers

ClusterOption = Annotated[
    str | None,
    machine_option(
        "--cluster",
        metavar="tcp://HOST:PORT|FILE",
        show_default="this machine alone",
        help="Use the workers of a Dask scheduler, or of a batch system by a dask-jobqueue configuration. They have to "
        "see the data folder.",
    ),
]


ShardOption = Annotated[
    str | None,
    machine_option(
        "--shard",
        metavar="I/N",
        show_default="all of it",
        help="Do only part I of N, for array jobs. Parts share the data folder and run in any order; then run the "
        "command without --shard.",
    ),
]


def shard_of(text: str | None) -> Shard | None:
    """The part that is asked for; ends with a complaint if that is none."""
    from aasvc_cli.storage.parts import Shard

    return None if text is None else Shard.parse(text)


@contextlib.contextmanager
def workers_of(place: str | None) -> Iterator[Workers | None]:
    """The workers of a cluster; None without one."""
    if place is None:
        yield None
        return
    from aasvc_cli.cluster import connect

    with connect(place, home_folder().root, __version__) as workers:
        yield workers
