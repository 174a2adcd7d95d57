"""Click, made to fit: commands loaded when used, options in groups, ``-`` for ``_``, options anywhere."""

from __future__ import annotations

from collections import defaultdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from asyncbackup.cli.exit_codes import MEANING, ExitCode
from asyncbackup.cli.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

CommandFunction = TypeVar("CommandFunction", bound="Callable[..., Any]")

GLOBAL = "Global options"


class GroupedOption(click.Option):
    """An option that the help lists below a heading of its own."""

    def __init__(self, *args: Any, heading: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heading = heading


class Command(click.Command):
    """A command whose help has grouped options, examples, and the exit codes that it can end with."""

    def __init__(
        self, *args: Any, examples: str = "", codes: Sequence[ExitCode] = tuple(ExitCode), **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples
        self.codes = codes

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options below their headings."""
        write_options(self, ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples and the exit codes."""
        write_examples(formatter, self.examples)
        write_codes(formatter, self.codes)


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used.

    ``commands_at`` maps a heading of the help to its commands: the name to
    ``module:function``. ``aliases`` maps further names to names.
    """

    def __init__(
        self,
        *args: Any,
        commands_at: Mapping[str, Mapping[str, str]],
        aliases: Mapping[str, str],
        examples: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._headings = commands_at
        self._places = {name: place for names in commands_at.values() for name, place in names.items()}
        self._aliases = aliases
        self._examples = examples

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command by its own name, in the order of the help."""
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, alias, or spelling with ``-``."""
        name = cmd_name.replace("-", "_")
        name = self._aliases.get(name, name)
        place = self._places.get(name)
        if place is None:
            return None
        module, _, function = place.partition(":")
        command: click.Command = getattr(import_module(module), function)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with an answer for slips."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            import difflib

            close = difflib.get_close_matches(name.replace("-", "_"), [*self._places, *self._aliases], n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"'{ctx.command_path} --help' lists them"
            raise click.UsageError(f"there is no command {name!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, then the commands below their headings."""
        write_options(self, ctx, formatter)
        others: defaultdict[str, list[str]] = defaultdict(list)
        for alias, name in self._aliases.items():
            others[name].append(alias)
        for heading, names in self._headings.items():
            rows: list[tuple[str, str]] = []
            for name in names:
                command = self.get_command(ctx, name)
                assert command is not None, "every name of the table has a command"
                rows.append((", ".join([name, *others[name]]), command.get_short_help_str(limit=90)))
            with formatter.section(heading):
                formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples and all exit codes."""
        write_examples(formatter, self._examples)
        write_codes(formatter, tuple(ExitCode))


def write_options(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """Write the options of ``command`` below their headings, the global ones last."""
    rows: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for parameter in command.get_params(ctx):
        if not isinstance(parameter, click.Option):
            continue
        record = parameter.get_help_record(ctx)
        if record is not None:
            rows[parameter.heading if isinstance(parameter, GroupedOption) else GLOBAL].append(record)
    for heading in sorted(rows, key=lambda heading: heading == GLOBAL):
        with formatter.section(heading):
            formatter.write_dl(rows[heading])


def write_examples(formatter: click.HelpFormatter, examples: str) -> None:
    """Write ``examples`` as they are."""
    if examples:
        with formatter.section("Examples"):
            for line in examples.strip().splitlines():
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


def write_codes(formatter: click.HelpFormatter, codes: Sequence[ExitCode]) -> None:
    """Write what each of ``codes`` means."""
    with formatter.section("Exit codes"):
        formatter.write_dl([(str(int(code)), MEANING[code]) for code in codes])


def global_options(function: CommandFunction) -> CommandFunction:
    """Add the options that every command takes, before or after its name."""

    def verbosity(name: str, text: str) -> Callable[[CommandFunction], CommandFunction]:
        def note(ctx: click.Context, _: click.Parameter, value: bool) -> None:
            if value:
                _session(ctx).set_verbosity(name)

        return click.option(
            f"--{name}",
            cls=GroupedOption,
            heading=GLOBAL,
            is_flag=True,
            expose_value=False,
            callback=note,
            help=text,
        )

    def config(ctx: click.Context, _: click.Parameter, value: Path | None) -> None:
        if value is not None:
            _session(ctx).config = value

    def json(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            _session(ctx).json = True

    options: list[Callable[[CommandFunction], CommandFunction]] = [
        click.option(
            "-c",
            "--config",
            cls=GroupedOption,
            heading=GLOBAL,
            metavar="FILE",
            type=click.Path(path_type=Path),
            expose_value=False,
            callback=config,
            help="The configuration. Else $ASYNCBACKUP_CONFIG, ./asyncbackup.toml, the user's own.",
        ),
        click.option(
            "--json",
            cls=GroupedOption,
            heading=GLOBAL,
            is_flag=True,
            expose_value=False,
            callback=json,
            help="One JSON object a line on stdout; the last one is the summary.",
        ),
        verbosity("verbose", "Say more: every name that was ignored or failed, and what goes on."),
        verbosity("debug", "Say all, with the place in the program for errors."),
        verbosity("quiet", "Say nothing but the summary and errors."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def section_options(function: CommandFunction) -> CommandFunction:
    """Add ``--path``, ``--to`` and ``--section``, which make a section without a configuration file."""

    def keep(ctx: click.Context, parameter: click.Parameter, value: object) -> None:
        if value is not None:
            assert parameter.name in {"folder", "folder_destination", "folder_section"}
            setattr(_session(ctx), parameter.name, value)

    def option(*names: str, **details: Any) -> Callable[[CommandFunction], CommandFunction]:
        heading = "Without a configuration file"
        return click.option(
            *names, cls=GroupedOption, heading=heading, expose_value=False, callback=keep, **details
        )

    for decorate in (
        option(
            "--section",
            "folder_section",
            metavar="NAME",
            help="What to call the section; default: as the folder.",
        ),
        option(
            "--to",
            "folder_destination",
            metavar="URL",
            help="Where it goes: s3://bucket/prefix or file:///folder.",
        ),
        option("--path", "folder", metavar="DIR", type=click.Path(path_type=Path), help="The folder."),
    ):
        function = decorate(function)
    return function


def _session(ctx: click.Context) -> Session:
    session = ctx.find_root().ensure_object(Session)
    return session
