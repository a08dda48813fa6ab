"""How many examples the tests of properties try."""

from __future__ import annotations

from typing import Any

from hypothesis import settings

share = 1.0
"""Of the examples; the default tier tries fewer, as conftest sets it."""


def examples(count: int, **rest: Any) -> settings:
    """Settings of a test that tries so many examples, or in the default tier a quarter of them and at least ten."""
    return settings(max_examples=max(min(count, 10), round(count * share)), deadline=None, **rest)
