"""Voice conversion from parallel recordings: AAS-VC (arXiv 2309.07598) as a command-line tool and a library."""

__version__ = "0.1.0"
