"""Restore: a snapshot's files back to where they came from, or below another folder.

    manifest ──filter──▶ selection (SQLite) ──▶ folders, symlinks, empty files   (threads)
                              │
                              ├──▶ downloads ──▶ verified, placed by rename       (workers, threads)
                              ├──▶ spans of packs, many files each ──▶ the same   (workers, threads)
                              ├──▶ hard links                                     (threads)
                              └──▶ metadata of folders, deepest first             (threads)

* A file is written under a temporary name in its folder, checked against its
  SHA-256 (and opened, where it is encrypted), given its metadata through the
  descriptor, and renamed: under its final name there is the old file, the new
  one, or nothing, and never anything that was not authenticated.
* Everything below the target is reached through descriptors, one component at a
  time, none of them a symlink (``tree.py``).
* Owners are restored by number, where permitted. Existing folders that were
  asked for get the snapshot's metadata, and so does the target itself when the
  whole section is restored into it; existing files under ``changed`` are left as
  they are, metadata included.
* Memory holds at most ``memory_limit`` of file bytes, and pages of rows. Each
  thread that decrypts or expands a small object holds its content (1 MiB)
  beside; what a span of a pack expands to at a time is within the limit.
* Restored files are not synced one by one: they exist twice, after all. A
  restore that goes on after the machine was started again reads what it had
  restored before instead of trusting size and time.
"""

from __future__ import annotations

from asyncbackup.restore.section import restore_section
from asyncbackup.restore.summary import RestoreCounters, RestoreSummary

__all__ = ["RestoreCounters", "RestoreSummary", "restore_section"]
