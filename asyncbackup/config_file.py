"""From a TOML file to typed settings, or to an error that tells file, line, key and the way out.

Paths in the file begin with ``/``, with ``~``, or at the folder that the file
lies in. Nothing but the file itself is touched here: whether a folder exists
or a bucket answers is found out by the command that needs it.
"""

from __future__ import annotations

import os
import re
import tomllib
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from asyncbackup.config import MIB, EncryptionSettings, S3Settings, SectionSettings, Settings
from asyncbackup.config_table import ConfigFileError, Document, Table
from asyncbackup.config_values import (
    DEFAULT_ZSTD_LEVEL,
    check_pattern,
    environment_name,
    not_empty,
    one_of,
    path_in,
    size_between,
    zstd_level,
)
from asyncbackup.destination import (
    STORAGE_CLASSES,
    check_destination,
    check_endpoint_url,
    is_remote,
    needs_plain_http,
)
from asyncbackup.errors import ConfigError
from asyncbackup.format.keys import check_section_name
from asyncbackup.toml_lines import key_lines
from asyncbackup.units import format_size

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIG_VARIABLE: Final = "ASYNCBACKUP_CONFIG"
CONFIG_NAME: Final = "asyncbackup.toml"

MAX_CONCURRENCY: Final = 1024
_AUTO: Final = 0
"""What ``concurrency = "auto"`` is read as."""
_CONFIG_LIMIT_BYTES = 4 * 1024 * 1024

# S3's own limits for a part; the last one of an upload may be smaller.
_MIN_PART_BYTES = 5 * 1024**2
_MAX_PART_BYTES = 5 * 1024**3
_MAX_MEMORY_BYTES = 1024**4

MAX_PACK_BELOW_BYTES: Final = 8 * MIB
"""Half a pack: larger files gain nothing from sharing one."""

_SECRETS = ("passphrase_file", "passphrase_env", "passphrase_command", "key_file")
_CHAIN = (
    "credentials come from the usual AWS chain: the environment, ~/.aws, or the profile named by 'profile'"
)
_S3_HINTS = {
    key: _CHAIN
    for key in (
        "access_key",
        "access_key_id",
        "aws_access_key_id",
        "secret_key",
        "secret_access_key",
        "aws_secret_access_key",
        "session_token",
        "aws_session_token",
    )
}
_PASSPHRASE_HINTS = {
    key: f"a pass phrase does not stand in the configuration; name its place with {', '.join(_SECRETS[:-1])}"
    for key in ("passphrase", "password", "secret", "key")
}


def find_config(explicit: Path | None, *, environ: Mapping[str, str] | None = None) -> Path | None:
    """The configuration file to read, or ``None`` where there is none.

    The order: ``explicit`` (``-c``), ``$ASYNCBACKUP_CONFIG``,
    ``./asyncbackup.toml``, the user's configuration folder. The first two are
    not required to exist: reading them then says so.
    """
    if explicit is not None:
        return explicit
    if named := (os.environ if environ is None else environ).get(CONFIG_VARIABLE):
        return Path(named)
    return next((place for place in default_places() if place.is_file()), None)


def default_places() -> tuple[Path, Path]:
    """Where a configuration file is looked for when none is named."""
    return Path(CONFIG_NAME), user_config()


def user_config() -> Path:
    """The configuration file of the user, whether it exists or not."""
    import platformdirs

    return platformdirs.user_config_path("asyncbackup", appauthor=False) / CONFIG_NAME


def default_state_dir() -> Path:
    """Where databases lie unless ``state_dir`` says otherwise."""
    import platformdirs

    return platformdirs.user_state_path("asyncbackup", appauthor=False)


def load_settings(path: Path) -> Settings:
    """The settings of one file. Raises :class:`ConfigFileError` naming every problem of it."""
    text = _read(path)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigFileError([_syntax_problem(path, error)]) from None
    document = Document(str(path), key_lines(text))
    settings = _settings(Table(document, (), values), folder=path.absolute().parent)
    document.check()
    return settings


def folder_settings(settings: Settings, path: Path, destination: str, *, name: str | None = None) -> Settings:
    """Settings with one section made of a folder and a destination, for ``--path`` and ``--to``.

    The section is called ``name``, or after the folder. Its database lies in
    a folder of its own, so that it meets neither a section of the
    configuration nor another pair of folder and destination.
    """
    folder = Path(os.path.abspath(path))
    try:
        url = check_destination(destination)
    except ValueError as error:
        raise ConfigError(f"--to {destination!r}: {error}") from None
    if name is None:
        name = section_name_of(folder)
    else:
        check_section_name(name)
    if inside := _inside(url, folder):
        raise ConfigError(f"--to {destination!r}: {inside}")
    section = SectionSettings(name=name, path=folder, destination=url)
    pair = sha256(b"\0".join([name.encode(), os.fsencode(folder), os.fsencode(url)])).hexdigest()
    return Settings(
        state_dir=settings.state_dir / "folders" / pair[:16],
        concurrency=settings.concurrency,
        adaptive=settings.adaptive,
        memory_limit_bytes=settings.memory_limit_bytes,
        part_size_bytes=settings.part_size_bytes,
        s3=settings.s3,
        sections={name: section},
    )


def section_name_of(folder: Path) -> str:
    """A section's name made from a folder's: ``/srv/My Files`` gives ``My-Files``."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.name, flags=re.ASCII).lstrip("._-")[:64].rstrip(".-")
    if not folder.name:
        name = "root"
    try:
        check_section_name(name)
    except ConfigError:
        return f"folder-{sha256(os.fsencode(folder.name)).hexdigest()[:8]}"
    return name


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_CONFIG_LIMIT_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {str(path)!r}: {error.strerror}") from error
    if len(content) > _CONFIG_LIMIT_BYTES:
        raise ConfigError(f"{path}: over {format_size(_CONFIG_LIMIT_BYTES)}; this is no configuration file")
    try:
        return content.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigFileError([f"{path}, line {line}: not UTF-8; TOML is always UTF-8"]) from None


def _syntax_problem(path: Path, error: tomllib.TOMLDecodeError) -> str:
    reason, _, place = str(error).rpartition(" (at ")
    place = place.removesuffix(")")
    if place.startswith("line "):
        return f"{path}, {place}: not valid TOML: {reason}"
    return f"{path}: not valid TOML: {error}"


def _settings(table: Table, *, folder: Path) -> Settings:
    state_dir = table.text("state_dir", None, path_in(folder))
    concurrency = table.whole("concurrency", 32, 1, MAX_CONCURRENCY, words={"auto": _AUTO})
    memory = table.value("memory_limit", 64 * 1024**2, size_between(_MIN_PART_BYTES, _MAX_MEMORY_BYTES))
    default_part = min(8 * 1024**2, memory)
    part = table.value("part_size", default_part, size_between(_MIN_PART_BYTES, _MAX_PART_BYTES))
    if part > memory:
        table.problem(
            "part_size",
            f"{format_size(part)} is more than memory_limit, {format_size(memory)}; "
            "a part is held in memory while it is sent",
        )
    s3 = _s3(table.table("s3"))
    sections = _sections(table, folder=folder)
    table.finish()
    return Settings(
        state_dir=state_dir or default_state_dir(),
        memory_limit_bytes=memory,
        part_size_bytes=part,
        s3=s3,
        sections=sections,
    ).with_concurrency(concurrency or None)


def _s3(table: Table | None) -> S3Settings:
    if table is None:
        return S3Settings()
    default = S3Settings()
    plain = table.flag("allow_plain_http", default.allow_plain_http)

    def endpoint(url: str) -> str:
        url = check_endpoint_url(url)
        if needs_plain_http(url) and not plain:
            raise ValueError(
                "plain http sends everything readable to another machine; "
                "use https, or set allow_plain_http = true"
            )
        return url

    s3 = S3Settings(
        endpoint_url=table.text("endpoint_url", default.endpoint_url, endpoint),
        region=table.text("region", default.region, not_empty),
        profile=table.text("profile", default.profile, not_empty),
        addressing_style=table.text(
            "addressing_style", default.addressing_style, one_of("auto", "path", "virtual")
        ),
        transfer=table.text("transfer", default.transfer, one_of("lean", "aiobotocore")),
        allow_plain_http=plain,
        timeout_seconds=table.number("timeout_seconds", default.timeout_seconds, 1, 3600),
        max_attempts=table.whole("max_attempts", default.max_attempts, 1, 100),
    )
    table.finish(_S3_HINTS)
    return s3


def _sections(table: Table, *, folder: Path) -> dict[str, SectionSettings]:
    sections: dict[str, SectionSettings] = {}
    by_folded_name: dict[str, str] = {}
    named = table.table("sections")
    if named is None:
        table.problem("sections", "there is no section; write [sections.NAME] with a path and a destination")
        return sections
    for name in named.keys():  # noqa: SIM118 - a Table is no mapping
        section = named.table(name)
        if section is None:
            continue
        try:
            check_section_name(name)
        except ConfigError as error:
            named.problem(name, str(error))
        other = by_folded_name.setdefault(name.casefold(), name)
        if other != name:
            named.problem(name, f"differs from section {other!r} in upper and lower case only")
        sections[name] = _section(section, name, folder=folder)
    if not named.keys():
        table.problem("sections", "there is no section; write [sections.NAME] with a path and a destination")
    return sections


def _section(table: Table, name: str, *, folder: Path) -> SectionSettings:
    for key, example in (("path", '"/home/me"'), ("destination", '"s3://my-bucket/backups"')):
        # A misspelt one is named as unknown, with this one as what was meant: one mistake, one line.
        if key not in table and not table.has_misspelt(key):
            table.problem(None, f"{key} is missing; add a line like {key} = {example}")
    path = table.text("path", Path(), path_in(folder))
    destination = table.text("destination", "", check_destination)
    if path != Path() and destination and (inside := _inside(destination, path)):
        table.problem("destination", inside)
    exclude = table.texts("exclude", check_pattern, accepted='an array of gitignore patterns: ["*.tmp"]')
    packed = table.text("layout", "mirror", one_of("mirror", "packed")) == "packed"
    pack_below = table.value("pack_below", MIB, size_between(1, MAX_PACK_BELOW_BYTES))
    level = table.text("compression", DEFAULT_ZSTD_LEVEL if packed else 0, zstd_level)
    storage_class = table.text("storage_class", "STANDARD", one_of(*STORAGE_CLASSES))
    if storage_class != "STANDARD" and destination and not is_remote(destination):
        table.problem("storage_class", "a folder has no storage classes; leave this key out")
    section = SectionSettings(
        name=name,
        path=path,
        destination=destination,
        exclude=exclude,
        packed=packed,
        pack_below_bytes=pack_below,
        zstd_level=level,
        storage_class=storage_class,
        one_file_system=table.flag("one_file_system", False),
        allow_empty_source=table.flag("allow_empty_source", False),
        encryption=_encryption(table.table("encryption", secret=True), folder=folder),
    )
    table.finish()
    return section


def _encryption(table: Table | None, *, folder: Path) -> EncryptionSettings:
    if table is None:
        return EncryptionSettings()
    enabled = table.flag("enabled", False)
    hide_names = table.flag("encrypt_names", False)
    if hide_names and not enabled:
        table.problem("encrypt_names", "names are hidden in encrypted sections only; add enabled = true")
    given = [key for key in _SECRETS if key in table]
    if given and "enabled" not in table:
        table.problem(None, f"{given[0]} is given, but not whether to encrypt; add enabled = true")
    if len(given) > 1:
        table.problem(given[1], f"there is {given[0]} already; give exactly one of {', '.join(_SECRETS)}")
    if enabled and not given:
        table.problem("enabled", f"true, but no secret is named; give exactly one of {', '.join(_SECRETS)}")
    encryption = EncryptionSettings(
        enabled=enabled,
        passphrase_file=table.text("passphrase_file", None, path_in(folder)),
        passphrase_env=table.text("passphrase_env", "", environment_name),
        passphrase_command=table.text("passphrase_command", "", not_empty),
        key_file=table.text("key_file", None, path_in(folder)),
        hide_names=hide_names,
    )
    table.finish(_PASSPHRASE_HINTS)
    return encryption


def _inside(destination: str, path: Path) -> str:
    """What is wrong if a folder destination lies in the tree that it is to back up, else ``""``."""
    if is_remote(destination):
        return ""
    folder = os.path.realpath(destination.removeprefix("file://"))
    if not Path(folder).is_relative_to(os.path.realpath(path)):
        return ""
    return f"the destination lies inside {str(path)!r}, which it is to back up; name a folder outside"
