"""Whether an answer is S3's at all, before it is taken for one."""

from __future__ import annotations


class ForeignAnswer(Exception):  # noqa: N818 - an observation, turned into an error where it is caught
    """Something else came where the XML of S3 was expected: ``what`` it is, and how it begins."""

    def __init__(self, what: str, start: bytes) -> None:
        super().__init__(start.decode("ascii", "replace"))
        self.what = what


def check_native(status: int, body: bytes) -> None:
    """Raise ``ForeignAnswer`` for a body that is no XML where S3 sends XML or nothing.

    A captive portal's page parses as an S3 answer that says nothing: an empty listing, a finished PUT.
    """
    # 500 is also what botocore makes of a 200 whose body it cannot parse.
    if not (status < 300 or status == 500):
        return
    start = body[:200].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.lower().startswith((b"<!doctype html", b"<html")):
        raise ForeignAnswer("a web page", start)
    if start and not start.startswith(b"<"):
        raise ForeignAnswer("something", start)
