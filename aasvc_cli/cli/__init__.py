"""The command line: declare the options, call the pipeline, show the result."""

from aasvc_cli.cli.program import app, main, run

__all__ = ["app", "main", "run"]
