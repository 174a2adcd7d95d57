"""Every error that asyncbackup raises on purpose, and the rule that sorts them.

A failure confined to one source file is *data*: it travels as a
:class:`~asyncbackup.model.Failure`, is counted, and is named at the end of the
run. Anything about the configuration, the catalog, the repository's format or
the store is an exception below :class:`AsyncBackupError` and ends the run.

Errors are translated where a library is called (``raise … from``), never
further up: code above ``store/`` sees no botocore error, code above
``catalog/`` no SQLite error. The message of every error is one sentence that
names the file, key or setting and the way out; it never holds a secret.
"""

from __future__ import annotations


class AsyncBackupError(Exception):
    """Base of all errors raised on purpose. Ends the command with exit code 1."""


class ConfigError(AsyncBackupError):
    """The configuration or the command line asks for something impossible (exit code 2)."""


class SourceError(AsyncBackupError):
    """One source file could not be read consistently.

    Raised inside the reading stage and turned into a ``Failure`` there; it
    never leaves the pipeline.
    """

    def __init__(self, path: bytes, reason: str) -> None:
        super().__init__(reason)
        self.path = path
        self.reason = reason


class SourceGuardError(AsyncBackupError):
    """The source as a whole looks wrong (missing, or suddenly empty); nothing was committed."""


class TargetError(AsyncBackupError):
    """The target of a restore as a whole cannot be written (full, read-only); what was begun is kept."""


class CatalogError(AsyncBackupError):
    """The local database is missing, damaged, or not the one of this section."""


class CatalogMissingError(CatalogError):
    """There is no database yet; the message names ``initdb`` and ``syncdb_remote``."""


class CatalogBehindError(CatalogError):
    """A prune elsewhere deleted what the database may rely on; the message names ``syncdb_remote``."""


class SectionBusyError(AsyncBackupError):
    """Another process holds the section: its database, or a run or prune elsewhere (exit code 5)."""


class FormatError(AsyncBackupError):
    """Bytes at the destination do not follow docs/format.md."""


class RepositoryMissingError(AsyncBackupError):
    """There is no repository at the destination yet; the message names ``initdb``."""


class KeyUnlockError(AsyncBackupError):
    """No key slot opens with the given pass phrase or key file."""


class AuthenticationError(FormatError):
    """Encrypted bytes were changed, truncated, reordered, or stand at another key."""


class StoreError(AsyncBackupError):
    """An operation on the destination failed for good.

    ``operation`` is the S3 operation's name (``PutObject``), ``key`` the key
    relative to the destination or ``""``, ``code`` the endpoint's error code or
    a short name of the transport failure, ``retryable`` whether the same
    request may succeed later.
    """

    def __init__(
        self,
        operation: str,
        key: str,
        reason: str,
        *,
        code: str = "",
        retryable: bool = False,
    ) -> None:
        where = f" of {key!r}" if key else ""
        super().__init__(f"{operation}{where} failed: {reason}")
        self.operation = operation
        self.key = key
        self.reason = reason
        self.code = code
        self.retryable = retryable


class ObjectMissingError(StoreError):
    """The object or upload does not exist. A missing bucket is a plain ``StoreError``."""


class ObjectExistsError(StoreError):
    """A conditional write found the key taken."""


class ObjectRefusedError(StoreError):
    """The endpoint refuses this one object (its name, its metadata, its size).

    The only store error that is confined to one file: the uploader turns it
    into a ``Failure``.
    """


class UnsupportedError(StoreError):
    """The endpoint does not implement the operation."""


class AccessDeniedError(StoreError):
    """The credentials are missing, wrong, expired, or may not do this."""


class Interrupted(AsyncBackupError):  # noqa: N818 - no error, but what the user asked for
    """The user asked to stop; the state is kept (exit code 130)."""
