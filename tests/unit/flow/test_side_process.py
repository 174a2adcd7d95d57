"""A process beside: it shares memory, survives signals that mean the other one, and ends with it.

A fork belongs into a process without threads, which the one that runs the tests is not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from asyncbackup.flow.side_process import fork_side_process

PROLOGUE = """
import os, signal, socket, sys, threading
from asyncbackup.flow.side_process import fork_side_process

def shout(sock, memory):
    while (word := sock.recv(100)):
        memory[: len(word)] = word.upper()
        sock.sendall(b"%d" % len(word))

def ask(side, word):
    side.socket.sendall(word)
    return side.memory[: int(side.socket.recv(100))]
"""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="needs Linux and two processors"
)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", PROLOGUE + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )


def test_it_answers_and_both_see_the_memory() -> None:
    done = python("""
        side = fork_side_process(shout, memory_bytes=4096)
        print(ask(side, b"hello").decode(), ask(side, b"you").decode())
        side.close()
        try:
            os.kill(side.pid, 0)
        except ProcessLookupError:
            print("gone")
    """)
    assert (done.stdout, done.stderr) == ("HELLO YOU\ngone\n", "")


def test_its_processor_time_is_counted() -> None:
    done = python("""
        import resource, time
        def compute(sock, memory):
            while time.process_time() < 0.2:
                pass
            sock.sendall(b"!")
            sock.recv(1)
        side = fork_side_process(compute, memory_bytes=4096)
        side.socket.recv(1)
        side.close()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(used.ru_utime + used.ru_stime >= 0.2)
    """)
    assert done.stdout == "True\n"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"])
def test_signals_that_mean_the_other_one_do_not_end_it(name: str) -> None:
    done = python(f"""
        side = fork_side_process(shout, memory_bytes=4096)
        ask(side, b"it is up")
        os.kill(side.pid, signal.{name})
        print(ask(side, b"still there").decode())
        side.close()
    """)
    assert (done.stdout, done.stderr) == ("STILL THERE\n", "")


def test_it_ends_with_a_process_that_is_killed() -> None:
    done = python("""
        read, write = os.pipe()
        middle = os.fork()
        if not middle:
            os.close(read)
            side = fork_side_process(shout, memory_bytes=4096)
            ask(side, b"it is up")
            os.write(write, b"%d" % side.pid)
            os.kill(os.getpid(), signal.SIGKILL)
        os.close(write)
        # The end of the pipe comes when the last process that holds it is gone.
        print(os.read(read, 100).decode() > "0", os.read(read, 100))
        os.waitpid(middle, 0)
    """)
    assert (done.stdout, done.stderr) == ("True b''\n", "")


def test_it_does_not_go_on_with_what_it_is_at_when_the_other_one_is_killed() -> None:
    done = python("""
        def work(sock, memory):
            sock.sendall(b"!")
            while True:
                signal.pause()
        read, write = os.pipe()
        middle = os.fork()
        if not middle:
            os.close(read)
            side = fork_side_process(work, memory_bytes=4096)
            side.socket.recv(1)
            os.kill(os.getpid(), signal.SIGKILL)
        os.close(write)
        print(os.read(read, 1))
        os.waitpid(middle, 0)
    """)
    assert (done.stdout, done.stderr) == ("b''\n", "")


def test_what_hangs_is_killed() -> None:
    done = python("""
        def hang(sock, memory):
            sock.sendall(b"!")
            while True:
                signal.pause()
        side = fork_side_process(hang, memory_bytes=4096)
        side.socket.recv(1)
        side.close()
        print(os.WTERMSIG(os.waitpid(side.pid, 0)[1]) == signal.SIGKILL)
    """)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_what_goes_wrong_there_ends_it_and_says_nothing() -> None:
    done = python("""
        def fail(sock, memory):
            print("lost", file=sys.stderr, flush=True)
            raise ValueError("lost")
        side = fork_side_process(fail, memory_bytes=4096)
        print(side.socket.recv(1))
        side.close()
    """)
    assert (done.stdout, done.stderr) == ("b''\n", "")


def test_there_is_none_with_a_single_processor() -> None:
    done = python("""
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(fork_side_process(shout, memory_bytes=4096))
    """)
    assert done.stdout == "None\n"


def test_there_is_none_where_no_process_may_be_made() -> None:
    done = python("""
        import resource
        os.setgid(65534), os.setuid(65534)
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        print(fork_side_process(shout, memory_bytes=4096))
    """)
    if os.geteuid():
        pytest.skip("only root may become a user without processes")
    assert (done.stdout, done.stderr) == ("None\n", "")


def test_there_is_none_beside_threads() -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        assert fork_side_process(lambda sock, memory: None, memory_bytes=4096) is None
    finally:
        end.set()
        thread.join()
