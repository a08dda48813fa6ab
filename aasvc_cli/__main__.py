"""Run the command line with ``python -m aasvc_cli``."""

from aasvc_cli.cli import main

if __name__ == "__main__":
    main()
