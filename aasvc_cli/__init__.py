"""Voice conversion from parallel recordings: AAS-VC (arXiv 2309.07598) as a command-line tool and a library.

The library is one class: ``Converter.load(...)`` finds a voice, and its ``convert`` turns samples into samples.
Importing this package loads nothing else; PyTorch comes with the first use of the class.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aasvc_cli.conversion.converter import Converted, Converter

__version__ = "0.1.0"
__all__ = ["Converted", "Converter", "__version__"]


def __getattr__(name: str) -> Any:
    """Load the library when it is asked for (PEP 562)."""
    if name in ("Converted", "Converter"):
        from importlib import import_module

        return getattr(import_module("aasvc_cli.conversion.converter"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
