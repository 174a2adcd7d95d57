"""The command ``asyncbackup``: its commands, and how each way to end becomes an exit code."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

import asyncbackup
from asyncbackup.cli.commands import LazyGroup, global_options
from asyncbackup.cli.exit_codes import ExitCode, first_cause
from asyncbackup.cli.output import Output, make_streams_safe, show_traceback
from asyncbackup.cli.session import Session

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "Set up": {
        "doctor": "asyncbackup.cli.doctor:doctor",
        "bench": "asyncbackup.cli.bench:bench",
        "plan": "asyncbackup.cli.plan:plan",
        "initdb": "asyncbackup.cli.database:initdb",
    },
    "Back up and restore": {
        "run": "asyncbackup.cli.run:run",
        "restore": "asyncbackup.cli.restore:restore",
    },
    "Look": {
        "list_remote": "asyncbackup.cli.remote:list_remote",
        "snapshots": "asyncbackup.cli.snapshots:snapshots",
        "diff": "asyncbackup.cli.history:diff",
        "find": "asyncbackup.cli.history:find",
        "stats": "asyncbackup.cli.stats:stats",
    },
    "Maintain": {
        "forget": "asyncbackup.cli.forget:forget",
        "prune": "asyncbackup.cli.prune:prune",
        "verify": "asyncbackup.cli.verify:verify",
        "syncdb_remote": "asyncbackup.cli.database:syncdb_remote",
        "key": "asyncbackup.cli.key:key",
    },
}

ALIASES = {"backup": "run", "ls": "list_remote"}

EXAMPLES = """
asyncbackup run --path ~/photos --to s3://my-bucket/photos     # no configuration needed
asyncbackup initdb && asyncbackup run                          # with asyncbackup.toml
asyncbackup restore home docs/report.pdf --target /tmp/back
asyncbackup run --json | jq -c 'select(.event == "summary")'
"""


@click.group(
    cls=LazyGroup,
    commands_at=COMMANDS,
    aliases=ALIASES,
    examples=EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(asyncbackup.__version__, "--version", message="%(prog)s %(version)s")
@global_options
def cli() -> None:
    """Back up folders to S3, or to another folder, and get them back.

    Every file becomes an ordinary object with its metadata, or a member of an ordinary tar archive, so
    that any S3 tool can read a backup. A
    later run uploads what changed; every snapshot can be restored. Global options may stand before or
    after the command, and names with '_' are also understood with '-'.
    """


def main(arguments: Sequence[str]) -> int:
    """Run one command line. Gives the exit code; what went wrong is said on stderr."""
    make_streams_safe()
    session = Session()
    try:
        code = cli.main(args=list(arguments), prog_name="asyncbackup", standalone_mode=False, obj=session)
        sys.stdout.flush()
    except click.ClickException as error:
        return _usage_problem(error, session, arguments)
    except (click.Abort, KeyboardInterrupt):
        return session.output().error(KeyboardInterrupt())
    except BrokenPipeError:
        # Whoever read stdout has seen enough (`| head`). Keep the interpreter's last flush from complaining.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - the one place where everything ends
        return _failed(error, session)
    return int(code or 0)


def _failed(error: BaseException, session: Session) -> int:
    cause = first_cause(error)
    if session.debug:
        show_traceback(error)
    return session.output().error(cause)


def _usage_problem(error: click.ClickException, session: Session, arguments: Sequence[str]) -> int:
    # The mistake may stand before --json, which then was not seen yet.
    output = Output(json=session.json or "--json" in arguments, quiet=session.quiet)
    context = error.ctx if isinstance(error, click.UsageError) else None
    message = error.format_message().rstrip(".")
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        if not output.json:
            sys.stderr.write(f"{error.format_message()}\n")
            return ExitCode.USAGE
        message = "there is no command"
    hint = f"; see '{context.command_path} --help'" if context is not None else ""
    output.problem(f"{message}{hint}", code=ExitCode.USAGE)
    return ExitCode.USAGE
