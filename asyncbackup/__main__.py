"""``python -m asyncbackup`` and the console script ``asyncbackup``."""

from __future__ import annotations

import gc
import os
import sys

LEAST_PYTHON = (3, 11)


def main() -> int:
    """Run the command line of this process; the result is the exit code."""
    # Installers refuse an older Python by themselves; a source tree or a copied folder has none.
    if sys.version_info < LEAST_PYTHON:
        sys.stderr.write(
            "asyncbackup: error: this is Python {}.{}, asyncbackup needs {}.{} or later\n".format(
                *sys.version_info[:2], *LEAST_PYTHON
            )
        )
        return 2
    _open_closed_streams()
    # What is imported stays: looking for cycles in it takes a twentieth of an unchanged run. The event loop's
    # runner goes on looking.
    gc.disable()
    from asyncbackup.cli.app import main as run_command_line
    from asyncbackup.cli.leaving import leave

    return leave(run_command_line(sys.argv[1:]))


def _open_closed_streams() -> None:
    """Give a process that was started without standard streams such as lead nowhere.

    Otherwise the next file that is opened would be taken for one of them.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115 - open to the end


if __name__ == "__main__":
    sys.exit(main())
