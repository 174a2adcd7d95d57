"""``doctor``: what an endpoint supports, what is wrong with the set-up, and what to do."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click
import msgspec

from asyncbackup.cli.bench import Destination, name_left
from asyncbackup.cli.commands import Command, global_options
from asyncbackup.cli.exit_codes import ExitCode
from asyncbackup.cli.progress import Figures, show_progress
from asyncbackup.cli.runner import run_async
from asyncbackup.config import Settings
from asyncbackup.config_file import default_state_dir, find_config, load_settings
from asyncbackup.config_table import ConfigFileError
from asyncbackup.errors import ConfigError
from asyncbackup.text import local_path, terminal_text
from asyncbackup.units import plural

if TYPE_CHECKING:
    from asyncbackup.cli.output import Output
    from asyncbackup.cli.session import Session
    from asyncbackup.doctor.findings import Finding
    from asyncbackup.flow.stop import StopRequest

_MARKS = {"ok": "ok", "note": "note", "problem": "PROBLEM"}


@click.command(
    cls=Command,
    examples="""
asyncbackup doctor                                # the configuration and all that it names
asyncbackup doctor s3://my-bucket/backups         # an endpoint, before anything is set up
asyncbackup doctor --json | jq -c 'select(.level == "problem")'
""",
    codes=(ExitCode.OK, ExitCode.FAILED, ExitCode.USAGE, ExitCode.INTERRUPTED),
)
@click.argument("destination", required=False, type=Destination(), metavar="[DESTINATION]")
@global_options
@click.pass_obj
def doctor(session: Session, destination: str | None) -> ExitCode:
    """Examine the set-up and the endpoints, and say what to do.

    Without a destination: the configuration, every section, and every destination. What an endpoint
    supports is tried out below asyncbackup-doctor-… there, with about 120 requests and 10 MiB, and
    removed again. Ends with code 1 if something prevents backups.
    """
    session.start_logging()
    output = session.output()
    consultation = Consultation(output, verbose=session.verbose)

    async def main(stop: StopRequest) -> ExitCode:
        settings = consultation.configuration(session, required=destination is None)
        with consultation.progress():
            await consultation.examine(settings, destination)
        return consultation.conclude()

    return run_async(main, output=output, graceful=False)


class Consultation:
    """Says what is found as it is found, under headings, and counts it."""

    def __init__(self, output: Output, *, verbose: bool) -> None:
        self._output = output
        self._verbose = verbose
        self._counts: Counter[str] = Counter()
        self._about = ""
        self._heading = ""
        self._doing = ""
        self._lines: list[str] = []

    def begin(self, heading: str) -> None:
        """What comes now is about this."""
        self._about = heading

    def report(self, finding: Finding) -> None:
        """Take one finding."""
        self._counts[finding.level.value] += 1
        self._output.event("finding", {"about": self._about, **msgspec.structs.asdict(finding)})
        if self._heading != self._about:
            self._heading = self._about
            self._lines.append(terminal_text(self._about))
        self._lines.append(f"  {_MARKS[finding.level.value]:<8} {terminal_text(finding.text)}")
        if finding.advice:
            self._lines.append(f"  {'':<8}   {terminal_text(finding.advice)}")

    def progress(self) -> ExitStack:
        """A display while it goes on."""
        stack = ExitStack()
        stack.enter_context(show_progress(self._output, "doctor", self._figures))
        return stack

    def _figures(self) -> Figures:
        return Figures(
            verb="examining",
            unit="findings",
            files_done=self._counts.total(),
            bytes_done=0,
            failed=self._counts["problem"],
            failed_word="problems",
            path=self._doing.encode(),
        )

    def configuration(self, session: Session, *, required: bool) -> Settings:
        """The settings, or what goes without saying where there are none. What is wrong is reported."""
        from asyncbackup.doctor.findings import note, ok, problem

        self.begin("configuration")
        blank = Settings(state_dir=default_state_dir())
        path = find_config(session.config)
        if path is None:
            text = "there is no configuration file"
            advice = "config.sample.toml shows what goes in; 'run --path DIR --to URL' does without"
            self.report(problem("configuration", text, advice) if required else note("configuration", text))
            return blank
        try:
            settings = load_settings(path)
        except ConfigFileError as error:
            for each in error.problems:
                self.report(problem("configuration", each, "correct that line"))
            return blank
        except ConfigError as error:
            self.report(problem("configuration", str(error), "correct -c or $ASYNCBACKUP_CONFIG"))
            return blank
        found = f"{local_path(path)} is valid, with {plural(len(settings.sections), 'section')}"
        self.report(ok("configuration", found))
        return settings

    async def examine(self, settings: Settings, destination: str | None) -> None:
        """This machine, then every destination and section, or the one destination."""
        from asyncbackup.doctor.examine import examine_section
        from asyncbackup.doctor.machine import examine_machine
        from asyncbackup.doctor.section import examine_state

        self.begin("this machine")
        for finding in examine_machine(concurrency=settings.concurrency):
            self.report(finding)
        if destination is not None:
            await self._destination(settings, destination)
            return
        if settings.sections:
            for finding in examine_state(settings):
                self.report(finding)
        reachable: dict[str, bool] = {}
        for section in settings.sections.values():
            if section.destination not in reachable:
                reachable[section.destination] = await self._destination(settings, section.destination)
        for section in settings.sections.values():
            self.begin(f"section {section.name}")
            self._doing = section.name
            await examine_section(settings, section, self.report, reachable=reachable[section.destination])

    async def _destination(self, settings: Settings, destination: str) -> bool:
        from asyncbackup.doctor.examine import examine_destination
        from asyncbackup.traces import Traces

        self.begin(destination)
        traces = Traces("doctor")
        try:
            return await examine_destination(
                destination, s3=settings.s3, traces=traces, report=self.report, doing=self._set_doing
            )
        finally:
            name_left(self._output, traces)

    def _set_doing(self, what: str) -> None:
        self._doing = what

    def conclude(self) -> ExitCode:
        """Say all of it, and what it comes to."""
        problems = self._counts["problem"]
        self._output.event(
            "summary",
            {"ok": self._counts["ok"], "notes": self._counts["note"], "problems": problems},
        )
        verdict = plural(problems, "problem") if problems else "nothing prevents backups"
        notes = plural(self._counts["note"], "note")
        self._output.result(*self._lines, f"{verdict}, {notes}, {self._counts['ok']} ok")
        return ExitCode.FAILED if problems else ExitCode.OK
