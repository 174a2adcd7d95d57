"""One thing that was looked at: how it is, and the way out where it is not as it should be."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import msgspec

from asyncbackup.errors import StoreError


class Level(enum.StrEnum):
    """``PROBLEM`` prevents backups, or costs them; a ``NOTE`` is good to know."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """``check`` is a fixed name for scripts, ``text`` one sentence without its full stop, ``advice`` the
    way out."""

    check: str
    level: Level
    text: str
    advice: str = ""


def ok(check: str, text: str) -> Finding:
    """All is well."""
    return Finding(check=check, level=Level.OK, text=text)


def note(check: str, text: str, advice: str = "") -> Finding:
    """Good to know."""
    return Finding(check=check, level=Level.NOTE, text=text, advice=advice)


def problem(check: str, text: str, advice: str) -> Finding:
    """Something that prevents backups."""
    return Finding(check=check, level=Level.PROBLEM, text=text, advice=advice)


Report: TypeAlias = Callable[[Finding], None]
Check: TypeAlias = Callable[[], Awaitable[list[Finding]]]


async def examined(name: str, check: Check) -> list[Finding]:
    """What the check finds. Where the endpoint refuses what it asks for, that is what is found."""
    try:
        return await check()
    except StoreError as error:
        return [note(name, f"could not be examined: {error}")]
