"""``key list|add|remove|rotate``: the secrets that open an encrypted repository."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from asyncbackup.cli.commands import Command, CommandFunction, GroupedOption, LazyGroup, global_options
from asyncbackup.cli.exit_codes import ExitCode
from asyncbackup.cli.remote import time_text
from asyncbackup.cli.runner import run_async
from asyncbackup.cli.sections import each_section
from asyncbackup.cli.session import select
from asyncbackup.config import EncryptionSettings
from asyncbackup.config_values import environment_name
from asyncbackup.errors import KeyUnlockError
from asyncbackup.text import terminal_text
from asyncbackup.units import plural

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from asyncbackup.cli.output import Output
    from asyncbackup.cli.session import Session
    from asyncbackup.config import SectionSettings, Settings
    from asyncbackup.flow.stop import StopRequest
    from asyncbackup.repository.key_slots import KeySlots, SlotChange, SlotInfo
    from asyncbackup.repository.secrets import Secret

_KINDS = {"passphrase": "pass phrase", "key-file": "key file"}
_CODES = (ExitCode.OK, ExitCode.FAILED, ExitCode.USAGE, ExitCode.INTERRUPTED)
_SOURCES = ("--new-passphrase-file", "--new-passphrase-env", "--new-passphrase-command", "--new-key-file")


@click.group(
    cls=LazyGroup,
    commands_at={
        "Key slots": {
            "list": "asyncbackup.cli.key:list_keys",
            "add": "asyncbackup.cli.key:add",
            "remove": "asyncbackup.cli.key:remove",
            "rotate": "asyncbackup.cli.key:rotate",
        }
    },
    aliases={},
    examples="""
asyncbackup key list
asyncbackup key add home --new-passphrase-file recovery.txt --label "in the safe"
asyncbackup key rotate home
""",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@global_options
def key() -> None:
    """Show and change the secrets of an encrypted repository.

    What is encrypted is encrypted with a key that never changes. It lies at the destination in slots, each
    locked with one pass phrase or key file, so changing those uploads no data again.
    """


def new_secret_options(function: CommandFunction) -> CommandFunction:
    """Add the options that say where a new secret comes from. Never the secret itself: others see argv."""

    def environment(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
        try:
            return environment_name(value) if value else ""
        except ValueError as error:
            raise click.BadParameter(str(error), ctx, parameter) from None

    heading = "The new secret; without any of these a terminal asks for a pass phrase, twice"
    path = click.Path(path_type=Path)
    for decorate in (
        click.option(
            "--label", cls=GroupedOption, default="", metavar="TEXT", help="What 'key list' shows with it."
        ),
        click.option(
            "--new-key-file",
            cls=GroupedOption,
            heading=heading,
            type=path,
            metavar="FILE",
            help="32 random bytes.",
        ),
        click.option(
            "--new-passphrase-command",
            cls=GroupedOption,
            heading=heading,
            default="",
            metavar="COMMAND",
            help="The first line that it prints.",
        ),
        click.option(
            "--new-passphrase-env",
            cls=GroupedOption,
            heading=heading,
            default="",
            metavar="VARIABLE",
            callback=environment,
            help="The value of an environment variable.",
        ),
        click.option(
            "--new-passphrase-file",
            cls=GroupedOption,
            heading=heading,
            type=path,
            metavar="FILE",
            help="The first line of a file.",
        ),
    ):
        function = decorate(function)
    return function


@click.command(cls=Command, name="list", examples="asyncbackup key list home\n", codes=_CODES)
@click.argument("section", required=False, metavar="[SECTION]")
@global_options
@click.pass_obj
def list_keys(session: Session, section: str | None) -> ExitCode:
    """Show the key slots: id, kind, label, when they were made, and which one the configuration opens."""
    session.start_logging()
    output = session.output()
    selection = select(session, (section,) if section else ())

    async def main(stop: StopRequest) -> ExitCode:
        async def show(section: SectionSettings) -> ExitCode:
            return await _list(output, selection.settings, section)

        return await each_section(session, output, selection, show, stop=stop)

    return run_async(main, output=output, graceful=False)


@click.command(
    cls=Command,
    examples="""
asyncbackup key add home                                   # asks for a pass phrase
asyncbackup key add home --new-key-file /mnt/usb/key --label "USB stick"
asyncbackup key add home                                   # encryption was just switched on: the first slot
""",
    codes=_CODES,
)
@click.argument("section", required=False, metavar="[SECTION]")
@new_secret_options
@global_options
@click.pass_obj
def add(
    session: Session,
    section: str | None,
    new_passphrase_file: Path | None,
    new_passphrase_env: str,
    new_passphrase_command: str,
    new_key_file: Path | None,
    label: str,
) -> ExitCode:
    """Add a secret that opens the repository, beside those that do.

    In a repository that nothing is encrypted in yet, and without a new secret, the one that the
    configuration names gets the first slot.
    """
    session.start_logging()
    output = session.output()
    sources = _sources(new_passphrase_file, new_passphrase_env, new_passphrase_command, new_key_file)
    settings, chosen = _one_section(session, section)

    async def add_first(_: StopRequest) -> bool:
        return await _add_first(output, settings, chosen, label=label)

    if sources is None and run_async(add_first, output=output, graceful=False):
        return ExitCode.OK

    async def act(slots: KeySlots, new: Secret) -> None:
        change = await slots.add(new, label=label)
        _tell(output, chosen, change)
        output.result(f"{chosen.name}: key slot {change.added} added; {_count(change)}")

    return _with_new_secret(output, settings, chosen, sources, act, label=label)


@click.command(cls=Command, examples="asyncbackup key remove home 45569a5f\n", codes=_CODES)
@click.argument("names", nargs=-1, metavar="[SECTION] SLOT_ID")
@click.option(
    "--force",
    cls=GroupedOption,
    is_flag=True,
    help="Remove it even if it is the one that the configuration's secret opens.",
)
@global_options
@click.pass_obj
def remove(session: Session, names: tuple[str, ...], force: bool) -> ExitCode:
    """Remove a key slot, given its id or the beginning of it; its secret then opens nothing.

    Who kept a copy of the descriptor still opens that copy with a removed secret: the key behind the slots
    stays the same. If a secret has leaked, begin a new repository.
    """
    session.start_logging()
    output = session.output()
    if len(names) not in {1, 2}:
        raise click.UsageError(
            "the id of a key slot is missing; 'asyncbackup key list' shows them"
            if not names
            else "one section and one id of a key slot are enough"
        )
    settings, chosen = _one_section(session, names[0] if len(names) == 2 else None)

    async def main(_: StopRequest) -> ExitCode:
        from asyncbackup.repository.key_slots import KeySlots

        async with KeySlots.open(settings, chosen) as slots:
            change = await slots.remove(names[-1], even_configured=force)
        _tell(output, chosen, change)
        output.result(f"{chosen.name}: key slot {', '.join(change.removed)} removed; {_count(change)}")
        if not any(slot.configured for slot in change.slots):
            output.warning(
                f"{chosen.name}: the secret of the configuration opens the repository no more; name another"
            )
        return ExitCode.OK

    return run_async(main, output=output, graceful=False)


@click.command(
    cls=Command,
    examples="""
asyncbackup key rotate home                                # asks for the new pass phrase
asyncbackup key rotate home --new-passphrase-file new.txt && mv new.txt /etc/asyncbackup/passphrase
""",
    codes=_CODES,
)
@click.argument("section", required=False, metavar="[SECTION]")
@new_secret_options
@global_options
@click.pass_obj
def rotate(
    session: Session,
    section: str | None,
    new_passphrase_file: Path | None,
    new_passphrase_env: str,
    new_passphrase_command: str,
    new_key_file: Path | None,
    label: str,
) -> ExitCode:
    """Replace the secret of the configuration by a new one.

    The new one opens the repository before the old one stops to. The configuration is yours to change
    afterwards, for every section and machine that uses the old secret.
    """
    session.start_logging()
    output = session.output()
    sources = _sources(new_passphrase_file, new_passphrase_env, new_passphrase_command, new_key_file)
    settings, chosen = _one_section(session, section)

    async def act(slots: KeySlots, new: Secret) -> None:
        change = await slots.rotate(new, label=label)
        _tell(output, chosen, change)
        output.result(
            f"{chosen.name}: key slot {change.added} in the place of {', '.join(change.removed)}; "
            f"{_count(change)}"
        )
        output.note(
            f"{chosen.name}: put the new secret where the configuration looks for it ({slots.origin}), for "
            "every section and machine that uses the old one"
        )

    return _with_new_secret(output, settings, chosen, sources, act, label=label)


def _one_section(session: Session, name: str | None) -> tuple[Settings, SectionSettings]:
    """The section that a change is for. Several make naming one necessary: their secrets may differ."""
    selection = select(session, (name,) if name else ())
    if len(selection.sections) != 1:
        names = ", ".join(section.name for section in selection.sections)
        raise click.UsageError(f"name the section: {names}")
    return selection.settings, selection.sections[0]


def _sources(
    passphrase_file: Path | None, passphrase_env: str, passphrase_command: str, key_file: Path | None
) -> EncryptionSettings | None:
    """Where the new secret comes from; ``None`` where no option says so. Two are a usage error."""
    values = (passphrase_file, passphrase_env, passphrase_command, key_file)
    given = [option for option, value in zip(_SOURCES, values, strict=True) if value]
    if len(given) > 1:
        raise click.UsageError(f"{given[0]} and {given[1]} exclude each other")
    if not given:
        return None
    return EncryptionSettings(
        passphrase_file=passphrase_file,
        passphrase_env=passphrase_env,
        passphrase_command=passphrase_command,
        key_file=key_file,
    )


def _with_new_secret(
    output: Output,
    settings: Settings,
    section: SectionSettings,
    sources: EncryptionSettings | None,
    act: Callable[[KeySlots, Secret], Awaitable[None]],
    *,
    label: str,
) -> ExitCode:
    """``act`` with the slots and the secret that the options name or the user types."""
    from asyncbackup.repository.key_slots import KeySlots, check_label

    check_label(label)
    typed = _ask() if sources is None else None

    async def main(_: StopRequest) -> ExitCode:
        new = typed if sources is None else await _read(sources)
        assert new is not None, "options that name no source have led to a question"
        async with KeySlots.open(settings, section) as slots:
            await act(slots, new)
        return ExitCode.OK

    return run_async(main, output=output, graceful=False)


def _ask() -> Secret:
    from asyncbackup.repository.secrets import typed_secret

    if not sys.stdin.isatty():
        raise click.UsageError(
            f"there is no terminal to ask for the new pass phrase; give one of {', '.join(_SOURCES)}"
        )
    text: str = click.prompt("New pass phrase", hide_input=True, confirmation_prompt="Once more", err=True)
    return typed_secret(text)


async def _read(sources: EncryptionSettings) -> Secret | None:
    from asyncbackup.flow.workers import ThreadGate
    from asyncbackup.repository.secrets import read_new_secret

    threads = ThreadGate("new secret", 1)
    try:
        return await read_new_secret(sources, threads=threads)
    finally:
        threads.close()


async def _add_first(output: Output, settings: Settings, section: SectionSettings, *, label: str) -> bool:
    """Add the first slot of a repository that has none, for the configured secret; whether it had none."""
    from asyncbackup.repository.create import create_repository
    from asyncbackup.repository.key_slots import KeySlots, SlotChange, check_label

    check_label(label)
    if not section.encryption.enabled:
        return False
    async with KeySlots.open(settings, section) as slots:
        if await slots.list():
            return False
    await create_repository(settings, section, label=label)
    async with KeySlots.open(settings, section) as slots:
        found = await slots.list()
    change = SlotChange(added=found[0].id, slots=found)
    _tell(output, section, change)
    output.result(f"{section.name}: first key slot {change.added} added, for the configuration's secret")
    return True


async def _list(output: Output, settings: Settings, section: SectionSettings) -> ExitCode:
    from asyncbackup.repository.key_slots import KeySlots

    async with KeySlots.open(settings, section) as slots:
        found = await slots.list()
        origin = slots.origin
    for slot in found:
        output.event("key_slot", {"section": section.name, **_fields(slot)})
    output.result(
        f"{section.name}: {plural(len(found), 'key slot')} at {terminal_text(section.destination)}",
        *(_line(slot) for slot in found),
    )
    if not found:
        output.note(f"{section.name}: nothing is encrypted at this destination")
    elif origin and not any(slot.configured for slot in found):
        raise KeyUnlockError(f"{origin}: the secret opens none of the {plural(len(found), 'key slot')}")
    output.event(
        "summary",
        {
            "section": section.name,
            "destination": section.destination,
            "slots": len(found),
            "configured": [slot.id for slot in found if slot.configured],
        },
    )
    return ExitCode.OK


def _tell(output: Output, section: SectionSettings, change: SlotChange) -> None:
    """The summary event of a change."""
    output.event(
        "summary",
        {
            "section": section.name,
            "added": change.added or None,
            "removed": list(change.removed),
            "slots": [_fields(slot) for slot in change.slots],
        },
    )


def _fields(slot: SlotInfo) -> dict[str, object]:
    return {
        "id": slot.id,
        "kind": slot.kind,
        "label": slot.label,
        "created_ns": slot.created_ns,
        "configured": slot.configured,
    }


def _line(slot: SlotInfo) -> str:
    words = [slot.id, f"{_KINDS[slot.kind]:<11}", time_text(slot.created_ns)]
    if slot.label:
        words.append(terminal_text(slot.label))
    if slot.configured:
        words.append("(opened by the configuration)")
    return "  " + "  ".join(words)


def _count(change: SlotChange) -> str:
    return f"{plural(len(change.slots), 'key slot')} now"
