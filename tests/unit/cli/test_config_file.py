"""Configuration files: what is read, where it is looked for, and what each mistake is answered with."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import msgspec
import pytest

from asyncbackup.config import AUTO_CONCURRENCY, Settings
from asyncbackup.config_file import (
    default_state_dir,
    find_config,
    folder_settings,
    load_settings,
    section_name_of,
    user_config,
)
from asyncbackup.config_table import ConfigFileError
from asyncbackup.errors import ConfigError

MIB = 1024 * 1024
HOME = '[sections.home]\npath = "/home/me"\ndestination = "s3://my-bucket/backups"\n'


def write(folder: Path, text: str) -> Path:
    file = folder / "asyncbackup.toml"
    file.write_text(dedent(text))
    return file


def load(folder: Path, text: str) -> Settings:
    return load_settings(write(folder, text))


def test_the_contracts_example_is_read(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        """\
        state_dir = "~/.local/state/asyncbackup"      # databases; default: the platform's state folder
        concurrency = 32
        memory_limit = "64 MiB"                        # file bytes in flight at once
        [s3]                                           # all optional
        endpoint_url = "http://127.0.0.1:8333"
        region = "us-east-1"
        profile = "backup"
        [sections.home]
        path = "/home/me"
        destination = "s3://my-bucket/backups"         # or file:///mnt/disk/backups
        exclude = ["*.tmp", ".cache/"]                 # gitignore patterns
        layout = "mirror"                              # or "packed"
        pack_below = "1 MiB"                           # packed: smaller files share packs
        compression = "none"
        storage_class = "STANDARD"
        [sections.home.encryption]
        enabled = true
        passphrase_file = "/etc/asyncbackup/passphrase"
        """,
    )
    assert settings.state_dir == Path.home() / ".local/state/asyncbackup"
    assert (settings.concurrency, settings.memory_limit_bytes) == (32, 64 * MIB)
    assert settings.s3.endpoint_url == "http://127.0.0.1:8333"
    assert (settings.s3.region, settings.s3.profile) == ("us-east-1", "backup")
    home = settings.section("home")
    assert (home.name, home.path) == ("home", Path("/home/me"))
    assert home.destination == "s3://my-bucket/backups"
    assert home.exclude == ("*.tmp", ".cache/")
    assert home.encryption.enabled
    assert home.encryption.passphrase_file == Path("/etc/asyncbackup/passphrase")


def test_all_that_is_optional_has_a_default(tmp_path: Path) -> None:
    settings = load(tmp_path, HOME)
    assert settings == Settings(state_dir=default_state_dir(), sections={"home": settings.section("home")})
    assert not settings.section("home").encryption.enabled


def test_a_section_that_is_not_encrypted_any_more_still_names_its_secret(tmp_path: Path) -> None:
    settings = load(tmp_path, HOME + '[sections.home.encryption]\nenabled = false\nkey_file = "/k"\n')
    encryption = settings.section("home").encryption
    assert not encryption.enabled
    assert encryption.key_file == Path("/k")


def test_paths_begin_at_the_files_folder(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        """\
        state_dir = "state"
        [sections.one]
        path = "../tree"
        destination = "file:///mnt//disk/"
        encryption = { enabled = true, key_file = "keys/one" }
        """,
    )
    one = settings.section("one")
    assert settings.state_dir == tmp_path / "state"
    assert one.path == tmp_path.parent / "tree"
    assert one.encryption.key_file == tmp_path / "keys/one"
    assert one.destination == "file:///mnt/disk"


def test_sections_may_share_a_destination(tmp_path: Path) -> None:
    settings = load(tmp_path, HOME + HOME.replace("home", "work"))
    assert settings.section("home").destination == settings.section("work").destination


def test_a_small_memory_limit_lowers_the_part_size(tmp_path: Path) -> None:
    assert load(tmp_path, 'memory_limit = "6 MiB"\n' + HOME).part_size_bytes == 6 * MIB
    assert load(tmp_path, "memory_limit = 134217728\n" + HOME).part_size_bytes == 8 * MIB


def test_concurrency_that_adapts(tmp_path: Path) -> None:
    adaptive = load(tmp_path, 'concurrency = "auto"\n' + HOME)
    assert (adaptive.concurrency, adaptive.adaptive) == (AUTO_CONCURRENCY, True)
    fixed = load(tmp_path, "concurrency = 8\n" + HOME)
    assert (fixed.concurrency, fixed.adaptive) == (8, False)
    assert load(tmp_path, HOME).concurrency == 32
    folder = folder_settings(adaptive, tmp_path, "file:///mnt/disk")
    assert (folder.concurrency, folder.adaptive) == (AUTO_CONCURRENCY, True)
    assert folder.with_concurrency(3).adaptive is False
    assert fixed.with_concurrency(None) == msgspec.structs.replace(
        fixed, concurrency=AUTO_CONCURRENCY, adaptive=True
    )


# Each: what the file says, the line that is named, the key, and what else the message must hold.
MISTAKES: list[tuple[str, int, str, list[str]]] = [
    ("concurency = 3\n" + HOME, 1, "concurency", ["did you mean 'concurrency'?"]),
    ("Memory-Limit = 3\n" + HOME, 1, "Memory-Limit", ["did you mean 'memory_limit'?"]),
    ("colour = 1\n" + HOME, 1, "colour", ["unknown key; accepted are state_dir, concurrency"]),
    ('concurrency = "32"\n' + HOME, 1, "concurrency", ["'32' (a string)", "whole number from 1 to 1024"]),
    ("concurrency = true\n" + HOME, 1, "concurrency", ["true (a truth value)", "from 1 to 1024"]),
    ("concurrency = 0\n" + HOME, 1, "concurrency", ["0 (a whole number)", "from 1 to 1024"]),
    ("concurrency = 1025\n" + HOME, 1, "concurrency", ["1025", "from 1 to 1024"]),
    ('concurrency = "automatic"\n' + HOME, 1, "concurrency", ["from 1 to 1024, or 'auto'"]),
    ("\n\nmemory_limit = 1.5\n" + HOME, 3, "memory_limit", ["1.5 (a number)", '"64 MiB"']),
    ('memory_limit = "64 MeB"\n' + HOME, 1, "memory_limit", ["'MeB' is no unit", "KiB, MiB"]),
    ('memory_limit = "64M"\n' + HOME, 1, "memory_limit", ["MiB (1024) or MB (1000)"]),
    ('memory_limit = "1 MiB"\n' + HOME, 1, "memory_limit", ["from 5.00 MiB to 1.00 TiB"]),
    ('part_size = "65 MiB"\n' + HOME, 1, "part_size", ["65.0 MiB is more than memory_limit, 64.0 MiB"]),
    ("state_dir = []\n" + HOME, 1, "state_dir", ["found an array"]),
    ("state_dir = 2026-11-01\n" + HOME, 1, "state_dir", ["2026-11-01 (a date or time)"]),
    ('state_dir = "~nobody-of-that-name/x"\n' + HOME, 1, "state_dir", ["no user 'nobody-of-that-name'"]),
    ("s3 = 3\n" + HOME, 1, "s3", ["accepted is a table: [s3]"]),
    ('[s3]\nendpoint = "x"\n' + HOME, 2, "s3.endpoint", ["did you mean 'endpoint_url'?"]),
    ('[s3]\nsecret_key = "canary"\n' + HOME, 2, "s3.secret_key", ["the usual AWS chain"]),
    ('[s3]\nendpoint_url = "localhost:9000"\n' + HOME, 2, "s3.endpoint_url", ["https://s3.example.com:9000"]),
    ('[s3]\nendpoint_url = "http://h:99999"\n' + HOME, 2, "s3.endpoint_url", ["an address like"]),
    ('[s3]\nendpoint_url = "http://10.1.2.3"\n' + HOME, 2, "s3.endpoint_url", ["allow_plain_http = true"]),
    ('[s3]\nendpoint_url = "https://h/?x"\n' + HOME, 2, "s3.endpoint_url", ["neither '?' nor '#'"]),
    ('[s3]\naddressing_style = "paht"\n' + HOME, 2, "s3.addressing_style", ["did you mean 'path'?"]),
    ('[s3]\ntransfer = "boto"\n' + HOME, 2, "s3.transfer", ["accepted are lean, aiobotocore"]),
    ('[s3]\nregion = ""\n' + HOME, 2, "s3.region", ["leave the key out"]),
    ("[s3]\ntimeout_seconds = 0\n" + HOME, 2, "s3.timeout_seconds", ["a number from 1 to 3600"]),
    ("[s3]\nmax_attempts = 2.0\n" + HOME, 2, "s3.max_attempts", ["whole number from 1 to 100"]),
    (HOME.replace("sections", "section"), 1, "section", ["did you mean 'sections'?"]),
    ("[sections]\n", 1, "sections", ["there is no section"]),
    ("[sections]\nhome = 1\n", 2, "sections.home", ["accepted is a table: [sections.home]"]),
    ('[sections."a/b"]\npath = "/a"\ndestination = "s3://bbb"\n', 1, "sections.'a/b'", ["letters, digits"]),
    (HOME + HOME.replace("home]", "Home]"), 4, "sections.Home", ["upper and lower case only"]),
    ('[sections.home]\ndestination = "s3://bbb"\n', 1, "sections.home", ["path is missing"]),
    ('[sections.home]\npath = "/a"\n', 1, "sections.home", ["destination is missing"]),
    (
        '[sections.home]\npath = "/a"\ndestinaton = "s3://bbb"\n',
        3,
        "sections.home.destinaton",
        ["did you mean 'destination'?"],
    ),
    (HOME.replace('"/home/me"', '""'), 2, "sections.home.path", ["the path of a file or folder"]),
    (HOME + 'excludes = ["a"]\n', 4, "sections.home.excludes", ["did you mean 'exclude'?"]),
    (HOME + 'exclude = "*.tmp"\n', 4, "sections.home.exclude", ['["*.tmp"]']),
    (HOME + 'exclude = [\n  "a",\n  3,\n]\n', 6, "sections.home.exclude[1]", ["3 (a whole number)"]),
    (HOME + 'exclude = ["a", "!"]\n', 4, "sections.home.exclude[1]", ["no gitignore pattern"]),
    (HOME + 'layout = "miror"\n', 4, "sections.home.layout", ["did you mean 'mirror'?"]),
    (HOME + 'pack_below = "1 GiB"\n', 4, "sections.home.pack_below", ["sizes from", "8.00 MiB"]),
    (HOME + 'compression = "zstd:20"\n', 4, "sections.home.compression", ['"zstd:1" to "zstd:19"']),
    (HOME + 'compression = "gzip"\n', 4, "sections.home.compression", ['accepted are "none", "zstd"']),
    (HOME + 'storage_class = "standard_ia"\n', 4, "sections.home.storage_class", ["mean 'STANDARD_IA'?"]),
    (HOME + "one_file_system = 1\n", 4, "sections.home.one_file_system", ["true or false"]),
    (
        '[sections.a]\npath = "/a"\ndestination = "file:///b"\nstorage_class = "GLACIER"\n',
        4,
        "sections.a.storage_class",
        ["a folder has no storage classes"],
    ),
    (
        '[sections.a]\npath = "/a"\ndestination = "file:///a/b"\n',
        3,
        "sections.a.destination",
        ["lies inside"],
    ),
    (
        HOME + "[sections.home.encryption]\nenabled = true\n",
        5,
        "sections.home.encryption.enabled",
        ["no secret is named", "passphrase_file, passphrase_env, passphrase_command, key_file"],
    ),
    (
        HOME + '[sections.home.encryption]\nenabled = true\npassphrase_env = "A"\nkey_file = "/k"\n',
        7,
        "sections.home.encryption.key_file",
        ["there is passphrase_env already", "exactly one"],
    ),
    (
        HOME + '[sections.home.encryption]\npassphrase_env = "A"\n',
        4,
        "sections.home.encryption",
        ["add enabled = true"],
    ),
    (
        HOME + '[sections.home.encryption]\nenabled = false\nencrypt_names = true\nkey_file = "/k"\n',
        6,
        "sections.home.encryption.encrypt_names",
        ["add enabled = true"],
    ),
    (
        HOME + '[sections.home.encryption]\nenabled = false\npassphrase = "canary"\n',
        6,
        "sections.home.encryption.passphrase",
        ["does not stand in the configuration"],
    ),
    (
        HOME + '[sections.home.encryption]\nenabled = true\npassphrase_env = "canary canary"\n',
        6,
        "sections.home.encryption.passphrase_env",
        ["the name of an environment variable"],
    ),
]


@pytest.mark.parametrize(("text", "line", "key", "parts"), MISTAKES, ids=[case[2] for case in MISTAKES])
def test_a_mistake_is_answered(tmp_path: Path, text: str, line: int, key: str, parts: list[str]) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ConfigFileError) as caught:
        load_settings(file)
    problem = caught.value.problems[0]
    assert problem.startswith(f"{file}, line {line}: {key}: ")
    for part in parts:
        assert part in problem
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("destination", "part"),
    [
        ("/mnt/disk", "did you mean 'file:///mnt/disk'?"),
        ("gs://bucket/x", "'gs://' is not known"),
        ("s3:/bucket", "accepted are s3://bucket/prefix"),
        ("s3://My-Bucket/x", "'My-Bucket' cannot be a bucket"),
        ("s3://ab", "3 to 63"),
        ("s3://a..b", "no '..'"),
        ("s3://-ab", "begins and ends"),
        ("s3://192.168.1.1/x", "no IP address"),
        ("s3:///prefix", "'' cannot be a bucket"),
        ("s3://bucket//x", "no empty segment"),
        ("s3://bucket/a/../b", "'.' or '..'"),
        ("s3://bucket/a\\\\b", "backslashes"),
        ("s3://bucket/a\\u0007", "control characters"),
        ("s3://bucket/" + 513 * "a", "at most 512 bytes"),
        ("file://mnt/disk", "three slashes"),
        ("file:///", "the root folder itself"),
        ("file:///mnt/../etc", "no '..'"),
    ],
)
def test_an_impossible_destination_is_refused(tmp_path: Path, destination: str, part: str) -> None:
    file = write(tmp_path, f'[sections.home]\npath = "/a"\ndestination = "{destination}"\n')
    with pytest.raises(ConfigFileError) as caught:
        load_settings(file)
    assert caught.value.problems[0].startswith(f"{file}, line 3: sections.home.destination: found ")
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("destination", "kept"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://my.bucket-1/a b/ü/", "s3://my.bucket-1/a b/ü"),
        ("file:///mnt/my disk/", "file:///mnt/my disk"),
    ],
)
def test_a_destination_has_one_spelling(tmp_path: Path, destination: str, kept: str) -> None:
    settings = load(tmp_path, f'[sections.home]\npath = "/a"\ndestination = "{destination}"\n')
    assert settings.section("home").destination == kept


def test_credentials_in_an_address_are_refused_and_not_shown(tmp_path: Path) -> None:
    file = write(tmp_path, '[s3]\nendpoint_url = "https://user:canary@host"\n' + HOME)
    with pytest.raises(ConfigFileError, match="credentials have no place") as caught:
        load_settings(file)
    assert "canary" not in str(caught.value)


def test_all_mistakes_are_named_in_the_order_of_lines(tmp_path: Path) -> None:
    file = write(tmp_path, "concurrency = 0\n" + HOME + "a = 1\nb = 2\n")
    with pytest.raises(ConfigFileError) as caught:
        load_settings(file)
    assert [problem.split(": ")[0].rsplit(" ", 1)[1] for problem in caught.value.problems] == ["1", "5", "6"]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"concurrency = \n", ["line 1, column 15", "not valid TOML"]),
        (b"a = 1\n[sections\n", ["line 2", "not valid TOML"]),
        (HOME.encode() * 2, ["line 4", "not valid TOML"]),
        (b"# \xff\n", ["line 1", "not UTF-8"]),
        (b"a = 1\n# \xff\n", ["line 2", "not UTF-8"]),
    ],
)
def test_a_file_that_is_no_toml(tmp_path: Path, content: bytes, parts: list[str]) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_settings(file)
    for part in [str(file), *parts]:
        assert part in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_settings(tmp_path / "none.toml")


def test_the_order_in_which_files_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    environ: dict[str, str] = {}
    assert find_config(None, environ=environ) is None
    users = user_config()
    users.parent.mkdir(parents=True)
    users.touch()
    assert find_config(None, environ=environ) == users
    Path("asyncbackup.toml").touch()
    assert find_config(None, environ=environ) == Path("asyncbackup.toml")
    environ["ASYNCBACKUP_CONFIG"] = "/named/by/variable"
    assert find_config(None, environ=environ) == Path("/named/by/variable")
    assert find_config(Path("/given"), environ=environ) == Path("/given")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("/srv/photos", "photos"),
        ("/srv/My Files", "My-Files"),
        ("/srv/.config", "config"),
        ("/", "root"),
        ("/srv/v1.", "v1"),
        ("/srv/" + 80 * "x", 64 * "x"),
    ],
)
def test_a_folder_names_its_section(folder: str, name: str) -> None:
    assert section_name_of(Path(folder)) == name


def test_a_folder_without_a_usable_name_gets_one_that_stays(tmp_path: Path) -> None:
    name = section_name_of(Path("/srv/日本"))
    assert name == section_name_of(Path("/other/日本"))
    assert name != section_name_of(Path("/srv/中国"))


def test_a_folder_becomes_a_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = Settings(state_dir=tmp_path / "state", concurrency=7)
    settings = folder_settings(base, Path("tree"), "s3://bucket/x/")
    section = settings.section("tree")
    assert (section.path, section.destination) == (tmp_path / "tree", "s3://bucket/x")
    assert settings.concurrency == 7
    named = folder_settings(base, Path("tree"), "s3://bucket/x", name="other")
    assert list(named.sections) == ["other"]
    elsewhere = folder_settings(base, Path("tree"), "s3://bucket/y")
    places = {each.database_path("tree") for each in (base, settings, named, elsewhere)}
    assert len(places) == 4
    again = folder_settings(base, tmp_path / "tree", "s3://bucket/x")
    assert again.database_path("tree") == settings.database_path("tree")


def test_a_folder_is_not_backed_up_into_itself(tmp_path: Path) -> None:
    base = Settings(state_dir=tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "tree")
    for destination in (f"file://{tmp_path}/tree", f"file://{tmp_path}/tree/x", f"file://{tmp_path}/link/x"):
        with pytest.raises(ConfigError, match="lies inside"):
            folder_settings(base, tmp_path / "tree", destination)
