"""What every command starts from: the global options, the output, and the settings they lead to."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import click
import msgspec

from asyncbackup.cli.output import Output
from asyncbackup.config import SectionSettings, Settings
from asyncbackup.config_file import (
    CONFIG_VARIABLE,
    default_places,
    default_state_dir,
    find_config,
    folder_settings,
    load_settings,
)
from asyncbackup.errors import ConfigError
from asyncbackup.logs import configure_logging
from asyncbackup.text import local_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_LEVELS = {"verbose": logging.INFO, "debug": logging.DEBUG, "quiet": logging.ERROR}


class Session:
    """The global options of one command line, wherever on it they stood."""

    def __init__(self) -> None:
        self.config: Path | None = None
        self.folder: Path | None = None
        self.folder_destination: str | None = None
        self.folder_section: str | None = None
        self.json = False
        self.verbosity: str | None = None
        self._log_level: int | None = None

    def set_verbosity(self, name: str) -> None:
        """One of ``verbose``, ``debug``, ``quiet``; a second, different one is a usage error."""
        if self.verbosity not in {None, name}:
            raise click.UsageError(f"--{self.verbosity} and --{name} exclude each other")
        self.verbosity = name

    @property
    def quiet(self) -> bool:
        return self.verbosity == "quiet"

    @property
    def verbose(self) -> bool:
        """Whether every name is to be listed, however many there are."""
        return self.verbosity in {"verbose", "debug"}

    @property
    def debug(self) -> bool:
        return self.verbosity == "debug"

    def output(self) -> Output:
        """Where the command writes to."""
        return Output(json=self.json, quiet=self.quiet)

    def start_logging(self) -> None:
        """Log to stderr as the options ask for."""
        configure_logging(_LEVELS.get(self.verbosity or "", logging.WARNING))

    def settings(self) -> Settings:
        """The settings of the configuration file. Raises ``ConfigError`` where there is none."""
        path = find_config(self.config)
        if path is None:
            raise ConfigError(_no_configuration())
        return load_settings(path)

    @property
    def from_folder(self) -> bool:
        """Whether ``--path`` and ``--to`` make the only section. Half of the two is a usage error."""
        if self.folder is not None and self.folder_destination is not None:
            return True
        if self.folder is None and self.folder_destination is None and self.folder_section is None:
            return False
        missing = "--path" if self.folder is None else "--to"
        raise click.UsageError(f"--path and --to go together; {missing} is missing")

    def folder_settings(self) -> Settings:
        """The configuration's settings if there is one, with the section of ``--path`` and ``--to`` alone."""
        assert self.folder is not None
        assert self.folder_destination is not None
        base = self.base_settings()
        return folder_settings(base, self.folder, self.folder_destination, name=self.folder_section)

    def base_settings(self) -> Settings:
        """The settings of the configuration file if there is one, else what goes without saying."""
        found = find_config(self.config)
        return Settings(state_dir=default_state_dir()) if found is None else load_settings(found)


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """What a command works on. ``from_folder``: ``--path`` and ``--to`` made the only section."""

    settings: Settings
    sections: tuple[SectionSettings, ...]
    from_folder: bool = False


def select(session: Session, names: Sequence[str]) -> Selection:
    """The sections that the command line names; all of them where it names none.

    Raises ``ConfigError`` and click's usage errors.
    """
    if session.from_folder:
        if names:
            raise click.UsageError(
                f"with --path and --to there is one section; --section {names[0]} calls it so"
            )
        settings = session.folder_settings()
        return Selection(settings=settings, sections=tuple(settings.sections.values()), from_folder=True)
    settings = session.settings()
    for name in names:
        if name not in settings.sections:
            raise click.UsageError(unknown_section(settings, name))
    chosen = dict.fromkeys(names) if names else settings.sections
    return Selection(settings=settings, sections=tuple(settings.sections[name] for name in chosen))


def select_one(session: Session, name: str | None) -> tuple[Settings, SectionSettings]:
    """The section of that name; without one, the only section there is. Raises as :func:`select`."""
    selection = select(session, () if name is None else (name,))
    if len(selection.sections) > 1:
        raise click.UsageError(f"name the section: {', '.join(selection.settings.sections)}")
    return selection.settings, selection.sections[0]


def select_with_paths(session: Session, arguments: Sequence[str]) -> tuple[Selection, list[bytes]]:
    """What ``[SECTION] [PATH]...`` names: the first argument is a path where it can be no section.

    Without any argument it is all sections. Raises as :func:`select`.
    """
    if session.from_folder or not arguments:
        # With one section at most, or nothing to tell apart, every argument is a path.
        selection, rest = select(session, ()), arguments
    else:
        sections = session.settings().sections
        if arguments[0] not in sections and len(sections) == 1:
            selection, rest = select(session, ()), arguments
        else:
            selection, rest = select(session, arguments[:1]), arguments[1:]
    return selection, [os.fsencode(argument) for argument in rest]


def unknown_section(settings: Settings, name: str) -> str:
    """What to say of a name that is no section's."""
    import difflib

    close = difflib.get_close_matches(name, settings.sections, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"there is no section {name!r}; {hint}the configuration has {', '.join(settings.sections)}"


def _no_configuration() -> str:
    here, users = (local_path(place) for place in default_places())
    return (
        f"there is no configuration: neither -c nor ${CONFIG_VARIABLE} names one, and there is "
        f"neither ./{here} nor {users}; config.sample.toml shows what goes in, and "
        "'run --path DIR --to URL' does without"
    )
