"""Reports on a page of the documentation, each between marks of its own."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Marks(NamedTuple):
    """Lines that stand around a report, and that no reader of the page sees."""

    begin: str
    end: str


PEERS = Marks("<!-- peers: begin (written by python -m benchmarks --publish) -->", "<!-- peers: end -->")
SCALE = Marks(
    "<!-- scale: begin (written by python -m benchmarks.scale --publish) -->", "<!-- scale: end -->"
)


def put_between(marks: Marks, page: Path, text: str) -> None:
    """Replace what stands between the marks; they are added at the end of a page that has none."""
    whole = page.read_text()
    if marks.begin not in whole:
        whole = f"{whole.rstrip()}\n\n{marks.begin}\n{marks.end}\n"
    before, _, rest = whole.partition(marks.begin)
    _, _, after = rest.partition(marks.end)
    page.write_text(f"{before}{marks.begin}\n{text}{marks.end}{after}")


def reached(truth: bool) -> str:
    """How a report says whether a target was reached."""
    return "reached" if truth else "**missed**"
