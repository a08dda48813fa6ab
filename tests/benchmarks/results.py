"""What benchmarks print in the end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def show(result: Mapping[str, Any], *, as_json: bool) -> None:
    """One figure a line, and for programs all of them on the last one."""
    for key, value in result.items():
        print(f"{key:28s} {value}")
    if as_json:
        print(json.dumps(result))
