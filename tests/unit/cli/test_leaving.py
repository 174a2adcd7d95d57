"""How the process ends."""

from __future__ import annotations

import os
import subprocess
import sys


def ended(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"import sys\nfrom asyncbackup.cli.leaving import leave\n{code}"]
    # Without PYTHONUNBUFFERED: what was printed is written by the last flush.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_it_ends_with_the_code_and_all_that_was_printed() -> None:
    done = ended(
        "import atexit; atexit.register(print, 'handler')\n"
        "print('result'); print('note', file=sys.stderr)\n"
        "leave(4); print('not reached')"
    )
    assert (done.returncode, done.stdout, done.stderr) == (4, "result\nhandler\n", "note\n")


def test_a_thread_at_work_is_waited_for() -> None:
    done = ended(
        "import threading\n"
        "ready = threading.Event()\n"
        "threading.Thread(target=lambda: (ready.wait(), print('done'))).start()\n"
        "code = leave(3); ready.set(); sys.exit(code)"
    )
    assert (done.returncode, done.stdout) == (3, "done\n")


def test_what_cannot_be_printed_is_told() -> None:
    done = ended(
        "import os\n"
        "reader, writer = os.pipe(); os.close(reader); os.dup2(writer, 1)\n"
        "print('result'); sys.exit(leave(0))"
    )
    assert done.returncode == 120, "as Python ends where its last flush fails"
