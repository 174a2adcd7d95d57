"""One error out of a task group's many."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from asyncbackup.errors import AsyncBackupError
from asyncbackup.flow.channel import BrokenChannelError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def single_error() -> Iterator[None]:
    """Raise what a task group's tasks failed of as one exception.

    Of several the first error raised on purpose wins; a channel that broke
    because its other end had failed never does. Anything unexpected is raised
    as it is, with its own traceback.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        leaves = list(_leaves(group))
        unexpected = [e for e in leaves if not isinstance(e, AsyncBackupError | BrokenChannelError)]
        expected = [e for e in leaves if isinstance(e, AsyncBackupError)]
        chosen = (unexpected or expected or leaves)[0]
        raise chosen from chosen.__cause__


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
