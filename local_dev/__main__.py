"""Command line: `python -m local_dev` serves; `client`, `bench` and the others are named by `--help`."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - pip refuses too, but a clone can be run without installing it
    sys.exit("Game STT needs Python 3.11 or newer; this is Python {}.{}.".format(*sys.version_info[:2]))

if __name__ == "__main__":
    try:
        from local_dev.cli import main

        sys.exit(main())
    except ModuleNotFoundError as error:  # each command imports what it needs
        sys.exit(f'error: {error.name} is not installed here. Install the server with: pip install -e ".[local]"')
