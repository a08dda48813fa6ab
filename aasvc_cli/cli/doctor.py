"""``aasvc doctor``."""

from __future__ import annotations


def doctor() -> None:
    """Look whether everything works, and free caches.

    Example: [bold]aasvc doctor[/bold]
    """
