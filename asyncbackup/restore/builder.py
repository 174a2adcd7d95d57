"""What a restore does at the target, a batch of entries a call. Every call blocks: it belongs in a thread."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.catalog.selection import Role, SelectedEntry, State
from asyncbackup.model import EMPTY_SHA256, Entry, Kind
from asyncbackup.restore.content import Checker, Content, Opening, check_content, check_digest
from asyncbackup.restore.metadata import CLOCK_NS, Note, Privileges, apply_to_descriptor, apply_to_symlink
from asyncbackup.restore.outcome import ContentError, Outcome, done, failed, failed_by, skipped
from asyncbackup.restore.overwrite import Overwrite, looks_same
from asyncbackup.restore.temporary import (
    TemporaryFile,
    place,
    remove_stale,
    temporary_name,
)
from asyncbackup.restore.tree import split_checked

if TYPE_CHECKING:
    from asyncbackup.restore.packed import SpanContents
    from asyncbackup.restore.spans import Member
    from asyncbackup.restore.tree import TargetTree
    from asyncbackup.store.base import Buffer

_READ_BYTES = 1024 * 1024
_UNLINKABLE = frozenset({errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
"""What ``link`` says where hard links are impossible, whichever file they would be to."""


class FetchedFile(msgspec.Struct, frozen=True, gc=False):
    """A small file whose stored bytes are in memory, all that its content says, and what opens them."""

    row: SelectedEntry
    content: Content
    stored: Sequence[bytes]
    opening: Opening | None = None

    def pieces(self) -> Sequence[Buffer]:
        """The content, opened and checked; once. Raises ``ContentError``."""
        sha256 = self.row.entry.sha256
        if self.content.as_stored:
            digest = hashlib.sha256()
            for piece in self.stored:
                digest.update(piece)
            check_digest(self.content, sha256, digest.digest())
            return self.stored
        checker = Checker(self.content, sha256, self.opening)
        pieces: list[Buffer] = [piece for chunk in self.stored for piece in checker.feed(chunk)]
        pieces += checker.finish()
        return pieces


class Prepared(msgspec.Struct):
    """What one batch of rows led to. ``files`` have to be downloaded; ``unsure`` were done by an
    earlier restore, look right and have to be read to be sure; the rest has its outcome.
    ``folders_made`` counts folders that no row describes."""

    outcomes: list[Outcome] = []
    files: list[SelectedEntry] = []
    unsure: list[SelectedEntry] = []
    folders_made: int = 0


class Written(msgspec.Struct):
    """What writing small files led to; ``damaged`` came differently from what was saved."""

    outcomes: list[Outcome] = []
    damaged: list[tuple[SelectedEntry, ContentError]] = []

    def add_error(self, row: SelectedEntry, error: ContentError) -> None:
        """Note what is wrong with the content of a file."""
        if error.damaged:
            self.damaged.append((row, error))
        else:
            self.outcomes.append(failed(row, error.reason))

    def add(self, other: Written) -> None:
        """Note what writing others led to."""
        self.outcomes += other.outcomes
        self.damaged += other.damaged


class Linked(msgspec.Struct):
    """What linking led to. ``orphans`` need the content themselves, since the name they would be
    linked to is not there; ``unlinkable`` do because the target cannot link them."""

    outcomes: list[Outcome] = []
    orphans: list[SelectedEntry] = []
    unlinkable: list[SelectedEntry] = []
    folders_made: int = 0


class Builder:
    """Builds entries below one target.

    ``token`` names the temporary files. ``going_on`` says that an earlier
    restore of the same selection was interrupted. Errors confined to an entry
    are outcomes; every method raises ``TargetError`` for those of the whole target.
    """

    def __init__(
        self,
        tree: TargetTree,
        *,
        target: str,
        privileges: Privileges,
        overwrite: Overwrite,
        token: str,
        going_on: bool = False,
    ) -> None:
        self.tree = tree
        self.privileges = privileges
        self.overwrite = overwrite
        self.token = token
        self._target = target
        self._going_on = going_on

    def outcome_of(self, row: SelectedEntry, error: OSError) -> Outcome:
        """The outcome of an entry that ``error`` prevented; raises ``TargetError``."""
        return failed_by(row, error, self._target)

    def existing_folders(self, rows: Iterable[SelectedEntry]) -> list[SelectedEntry]:
        """Those of the folders that exist."""
        kept: list[SelectedEntry] = []
        for row in rows:
            try:
                status = self.tree.status(row.entry.path)
            except OSError:
                continue  # making it will tell
            if status is not None and stat.S_ISDIR(status.st_mode):
                kept.append(row)
        return kept

    def prepare(self, rows: Sequence[SelectedEntry]) -> Prepared:
        """Make folders, symlinks and empty files; find out which files have to be downloaded."""
        prepared = Prepared()
        known = b""
        for row in rows:
            try:
                if row.role is Role.FOLDER:
                    self._make_folder(row)
                    continue
                folder, _ = split_checked(row.entry.path)
                if folder != known:
                    # A snapshot may lack the entry of a folder that could not be saved.
                    prepared.folders_made += self.tree.make_missing(folder)
                    known = folder
                if (outcome := self._prepare_entry(row, prepared)) is not None:
                    prepared.outcomes.append(outcome)
            except OSError as error:
                prepared.outcomes.append(self.outcome_of(row, error))
        return prepared

    def write_files(self, fetched: Sequence[FetchedFile]) -> Written:
        """Check, decrypt and write small files."""
        written = Written()
        for file in fetched:
            self._write_checked(file.row, file.pieces, written)
        return written

    def write_members(self, members: Sequence[Member], contents: SpanContents) -> Written:
        """Check and write the files of a span."""
        written = Written()
        for member in members:
            self._write_checked(member.row, partial(_only, contents, member), written)
        return written

    def write_given(
        self, row: SelectedEntry, content: Content | None, found: memoryview, written: Written
    ) -> None:
        """Write a small file whose content is ``found``, checked unless ``content`` is given."""
        self._write_checked(row, partial(_given, row, content, found), written)

    def commit(self, temporary: TemporaryFile, row: SelectedEntry) -> Outcome:
        """Give a written file its metadata and its name. Raises ``OSError``."""
        try:
            applied = temporary.commit(self.privileges, self.overwrite)
        except FileExistsError:
            temporary.abandon()
            return skipped(row)
        except BaseException:
            temporary.abandon()
            raise
        if not row.entry.sha256:
            applied.note(Note.UNCHECKED)
        return done(row, applied, bytes_written=row.entry.size)

    def content_in_place(self, row: SelectedEntry) -> bool:
        """Whether the file that stands there has the content that was saved, by reading it."""
        folder, name = split_checked(row.entry.path)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        try:
            with self.tree.folder(folder) as parent:
                descriptor = os.open(name, flags, dir_fd=parent)
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    return False
                digest = hashlib.sha256()
                while chunk := os.read(descriptor, _READ_BYTES):
                    digest.update(chunk)
            finally:
                os.close(descriptor)
        except OSError:
            return False
        return digest.digest() == row.entry.sha256

    def link(self, links: Sequence[tuple[SelectedEntry, SelectedEntry]]) -> Linked:
        """Make further names of files: pairs of the row and the row it is linked to."""
        linked = Linked()
        for row, leader in links:
            try:
                folder, _ = split_checked(row.entry.path)
                linked.folders_made += self.tree.make_missing(folder)
                outcome = self._before(row)
                if outcome is None:
                    outcome = self._link(row, leader)
            except OSError as error:
                if error.errno in _UNLINKABLE:
                    linked.unlinkable.append(row)
                    continue
                outcome = self.outcome_of(row, error)
            if outcome is None:
                linked.orphans.append(row)
            else:
                linked.outcomes.append(outcome)
        return linked

    def finish_folders(self, rows: Sequence[SelectedEntry]) -> list[Outcome]:
        """Give folders their metadata. Nothing in them may be restored afterwards."""
        outcomes: list[Outcome] = []
        for row in rows:
            try:
                with self.tree.open_folder(row.entry.path) as descriptor:
                    applied = apply_to_descriptor(descriptor, row.entry, self.privileges)
            except OSError as error:
                outcomes.append(self.outcome_of(row, error))
            else:
                outcomes.append(done(row, applied))
        return outcomes

    def _make_folder(self, row: SelectedEntry) -> None:
        never = self.overwrite is Overwrite.NEVER
        self.tree.make_folder(row.entry.path, replace=not never, adjust=not (never or row.implied))

    def _prepare_entry(self, row: SelectedEntry, prepared: Prepared) -> Outcome | None:
        """The outcome of a file or symlink, unless it is among the lists of ``prepared`` now."""
        outcome = self._before(row)
        if outcome is not None:
            if outcome.resumed and row.state is State.UNSURE and row.entry.size:
                # What the kernel had not written when it crashed may be zeros of the right size.
                prepared.unsure.append(row)
                return None
            return outcome
        if row.entry.kind is Kind.SYMLINK:
            return self._make_symlink(row)
        if row.entry.size:
            prepared.files.append(row)
            return None
        if row.entry.sha256 not in (b"", EMPTY_SHA256):
            return failed(row, "the snapshot's SHA-256 is not that of an empty file")
        return self._write_file(row, ())

    def _before(self, row: SelectedEntry) -> Outcome | None:
        """The outcome of an entry that needs nothing more: done before, or left as it is."""
        entry = row.entry
        if self._going_on:
            if row.state is State.SKIPPED:
                return skipped(row)
            if row.state in (State.DONE, State.UNSURE) and self._in_place(entry):
                return Outcome(row=row, state=State.DONE, resumed=True)
            self._remove_stale(row)
        if self.overwrite is Overwrite.ALWAYS:
            return None
        status = self.tree.status(entry.path)
        if status is None:
            return None
        if self.overwrite is Overwrite.NEVER or self._in_place(entry):
            return skipped(row)
        return None

    def _in_place(self, entry: Entry, *, tolerance_ns: int = 0) -> bool:
        """Whether what stands there looks like the entry."""
        folder, name = split_checked(entry.path)
        try:
            with self.tree.folder(folder) as parent:
                if not looks_same(os.lstat(name, dir_fd=parent), entry, tolerance_ns=tolerance_ns):
                    return False
                return entry.kind is Kind.FILE or os.readlink(name, dir_fd=parent) == entry.target
        except OSError:
            return False

    def _remove_stale(self, row: SelectedEntry) -> None:
        folder, _ = split_checked(row.entry.path)
        try:
            with self.tree.folder(folder) as parent:
                remove_stale(temporary_name(self.token, row.id), parent)
        except (FileNotFoundError, NotADirectoryError):
            return

    def _write_checked(
        self, row: SelectedEntry, content: Callable[[], Sequence[Buffer]], written: Written
    ) -> None:
        try:
            written.outcomes.append(self._write_file(row, content()))
        except ContentError as error:
            written.add_error(row, error)
        except OSError as error:
            written.outcomes.append(self.outcome_of(row, error))

    def _write_file(self, row: SelectedEntry, content: Sequence[Buffer]) -> Outcome:
        temporary = TemporaryFile(self.tree, row, self.token)
        try:
            offset = 0
            for chunk in content:
                temporary.write(offset, chunk)
                offset += len(chunk)
        except BaseException:
            temporary.abandon()
            raise
        return self.commit(temporary, row)

    def _make_symlink(self, row: SelectedEntry) -> Outcome:
        entry = row.entry
        folder, name = split_checked(entry.path)
        temporary = temporary_name(self.token, row.id)
        with self.tree.folder(folder) as parent:
            try:
                os.symlink(entry.target, temporary, dir_fd=parent)
            except FileExistsError:
                os.unlink(temporary, dir_fd=parent)
                os.symlink(entry.target, temporary, dir_fd=parent)
            try:
                applied = apply_to_symlink(temporary, parent, entry, self.privileges)
                place(temporary, name, parent, self.overwrite)
            except FileExistsError:
                remove_stale(temporary, parent)
                return skipped(row)
            except BaseException:
                remove_stale(temporary, parent)
                raise
        return done(row, applied)

    def _link(self, row: SelectedEntry, leader: SelectedEntry) -> Outcome | None:
        """The outcome of one link, ``None`` where the leader cannot be linked to. Raises ``OSError``."""
        entry, first = row.entry, leader.entry
        same = (entry.kind, entry.size, entry.sha256, entry.target) == (
            first.kind,
            first.size,
            first.sha256,
            first.target,
        )
        if leader.state not in (State.DONE, State.SKIPPED) or not same:
            return None
        if not self._in_place(first, tolerance_ns=CLOCK_NS):
            return None
        first_folder, first_name = split_checked(first.path)
        folder, name = split_checked(entry.path)
        temporary = temporary_name(self.token, row.id)
        with self.tree.folder(first_folder) as source, self.tree.folder(folder) as parent:
            if _same_inode(first_name, source, name, parent):
                return Outcome(row=row, state=State.DONE, linked=True)
            remove_stale(temporary, parent)
            try:
                os.link(first_name, temporary, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
            except OSError as error:
                if error.errno in (errno.EMLINK, errno.ENOENT):
                    return None
                raise
            try:
                # Only now is it certain what was linked: the leader's name may be somebody else's by now.
                if not looks_same(os.lstat(temporary, dir_fd=parent), entry, tolerance_ns=CLOCK_NS):
                    remove_stale(temporary, parent)
                    return None
                place(temporary, name, parent, self.overwrite)
            except FileExistsError:
                remove_stale(temporary, parent)
                return skipped(row)
            except BaseException:
                remove_stale(temporary, parent)
                raise
        return Outcome(row=row, state=State.DONE, linked=True)


def _given(row: SelectedEntry, content: Content | None, found: memoryview) -> tuple[memoryview]:
    if content is not None:
        check_content(content, row.entry.sha256, found)
    return (found,)


def _only(contents: SpanContents, member: Member) -> tuple[bytes | memoryview]:
    return (contents.of(member),)


def _same_inode(first: bytes, source: int, name: bytes, parent: int) -> bool:
    try:
        one = os.lstat(first, dir_fd=source)
        other = os.lstat(name, dir_fd=parent)
    except FileNotFoundError:
        return False
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
