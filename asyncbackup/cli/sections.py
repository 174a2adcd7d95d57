"""Commands that do one thing after another to several sections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncbackup.cli.exit_codes import ExitCode, first_cause, worst
from asyncbackup.cli.output import show_traceback
from asyncbackup.errors import AsyncBackupError, Interrupted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from asyncbackup.cli.output import Output
    from asyncbackup.cli.session import Selection, Session
    from asyncbackup.config import SectionSettings
    from asyncbackup.flow.stop import StopRequest


async def each_section(
    session: Session,
    output: Output,
    selection: Selection,
    act: Callable[[SectionSettings], Awaitable[ExitCode]],
    *,
    stop: StopRequest,
) -> ExitCode:
    """``act`` on one section after another. Gives the worst code.

    An error ends its own section: it is said, and the others go on. With one
    section alone, and for an interruption, it is the caller's.
    """
    codes: list[ExitCode] = []
    for section in selection.sections:
        try:
            codes.append(await act(section))
        except (AsyncBackupError, OSError, BaseExceptionGroup) as error:
            cause = first_cause(error)
            if (
                len(selection.sections) == 1
                or isinstance(cause, Interrupted)
                or not isinstance(cause, AsyncBackupError | OSError)
            ):
                raise
            if session.debug:
                show_traceback(error)
            codes.append(output.error(cause, section=section.name))
        if stop.requested:
            break
    return worst(codes)
