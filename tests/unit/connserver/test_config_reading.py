"""cluster.toml read: every fault at once, each with its line, and what a good file means."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from connserver.config import ClusterConfig, Endpoint, Overrides, load_cluster
from connserver.config.checks import CHECKS
from connserver.config.reading import section_hints
from connserver.config.schema import LIMIT_RANGES
from connserver.errors import ConfigError
from connserver.limits import Limits

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two plugins, for cluster.toml to lie in."""
    for name in ("chat", "world"):
        (tmp_path / "plugins" / name).mkdir(parents=True)
        (tmp_path / "plugins" / name / "plugin.toml").touch()
    return tmp_path


def load(folder: Path, text: str, **environ: str) -> ClusterConfig:
    path = folder / "cluster.toml"
    path.write_text(text)
    return load_cluster(path, environ={"HOME": str(folder), **environ})


def faults(folder: Path, text: str, **environ: str) -> list[str]:
    """The faults of a file as `line: message`, with the folder cut out."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text, **environ)
    lines = [fault.line for fault in caught.value.faults]
    assert lines == sorted(lines)
    return [f"{fault.line}: {fault.message}".replace(str(folder), "HERE") for fault in caught.value.faults]


def test_the_shipped_file_holds(tmp_path: Path) -> None:
    config = load_cluster(ROOT / "cluster.toml", environ={"HOME": str(tmp_path)})
    assert config.cluster.name == "demo"
    assert [node.name for node in config.nodes] == ["n1", "n2", "n3"]
    assert [str(gateway) for node in config.nodes for gateway in node.gateways] == [
        "127.0.0.1:9000",
        "127.0.0.1:9001",
        "127.0.0.1:9002",
    ]
    assert [plugin.path for plugin in config.plugins] == [ROOT / "plugins/chat", ROOT / "plugins/world"]


def test_the_shipped_file_shows_every_key_with_its_default_and_a_comment() -> None:
    shown: dict[str, str] = {}
    section = ""
    for line in (ROOT / "cluster.toml").read_text().splitlines():
        if match := re.match(r"\[+(\w+)\]+", line):
            section = match[1]
        elif match := re.match(r"(?:# )?([a-z_]+) = (.*?)\s+# (.+)", line):
            shown.setdefault(f"{section}.{match[1]}", match[2])
    missing = []
    for name, section_type in _sections().items():
        for item in dataclasses.fields(section_type):
            key = f"{name}.{item.name}"
            if key not in shown:
                missing.append(key)
            elif isinstance(item.default, int | str):
                written = f'"{item.default}"' if isinstance(item.default, str) else str(item.default).lower()
                assert shown[key] == written, f"{key} has another default than the file shows"
    assert missing == []


def _sections() -> dict[str, type]:
    hints = get_type_hints(ClusterConfig)
    del hints["file"], hints["local"]
    return {name: get_args(hint)[0] if get_args(hint) else hint for name, hint in hints.items()}


def test_an_empty_file_is_one_node_on_this_machine(folder: Path) -> None:
    config = load(folder, "")
    assert config.nodes[0].gateways == (Endpoint("127.0.0.1", 9000),)
    assert config == dataclasses.replace(ClusterConfig(), file=config.file, local=config.local)


def test_every_fault_is_reported_at_once_with_its_line(folder: Path) -> None:
    text = """\
[cluster]
name = "Demo World"
partition_group = 4
[[nodes]]
name = "n1"
gateways = [
  "127.0.0.1:9000",  # a comment is no item
  "127.0.0.1:9x",
]
[[nodes]]
hosts = "10.0.0.1"
[limits]
message_bytes = 1
fields = "x"
bytes_per_s = true
[replication]
durability = "disk"
heartbeat_ms = 20.5
[auth]
provider = "jwt"
[gateway]
allowed_origins = "x"
[[plugins]]
path = "plugins/none"
groups = [0, 9, 0]
[plugin]
"""
    assert faults(folder, text) == [
        "2: name: \"Demo World\" is not 1 to 32 lower-case letters, digits and '-', beginning with a letter",
        "3: unknown key 'partition_group'; did you mean 'partition_groups'?",
        "8: gateways: '127.0.0.1:9x': '9x' is no port, which is a number from 1 to 65535",
        "10: name is missing in this [[nodes]]",
        "10: two nodes cannot outlive each other: every object has three replicas, and a majority "
        "of them must be left; have 1 node (no failover) or at least 3",
        "11: unknown key 'hosts'; did you mean 'host'?",
        "13: message_bytes: 1 is not within 256 and 16777216",
        '14: fields: "x" is not a whole number',
        "15: bytes_per_s: true is not a whole number",
        "17: durability: \"disk\" is not one of 'process', 'power'",
        "18: heartbeat_ms: 20.5 is not a whole number",
        "20: provider 'jwt' needs the key by which tokens are checked: write secret_file here, "
        "auth_secret_file under [secrets] in local.toml, or set CS_AUTH_SECRET_FILE",
        '22: allowed_origins: "x" is not a list: write ["x"]',
        "25: groups: 0 is there twice",
        "26: unknown section 'plugin'; did you mean 'plugins'?",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("limits.fields = 1\n", 1),
        ("\nlimits = {burst = 4, fields = 1}\n", 2),
        ("[limits]\n\n'fields' = 1\n", 3),
        ('[limits]\n"fields" = 1\n', 2),
        ("[ limits ]\r\nburst = 4\r\nfields = 1\r\n", 3),
        ("cluster.name = 'x'\n[limits]\nfields\t=\t1\n", 3),
        ("[[nodes]]\nname = 'ä'\n", 2),
        ("nodes = [{name = 'n1'},\n{name = 'N2'}, {name = 'n3'}]\n", 2),
        (
            "[[nodes]]\nname='n1'\n[[nodes]]\nname='n2'\n"
            "[[nodes]]\nname='n3'\ngateways=[\n'h:1', # one\n\n'h'\n]\n",
            10,
        ),
        ("[[nodes]]\nname='n1'\ngateways = ['127.0.0.1:1',\n '127.0.0.1:1']\n", 4),
        ("[[plugins]]\npath='plugins/chat'\n[[plugins]]\npath='plugins/world'\ngroups=[0,\n1,\n7]\n", 7),
        ("[nodes]\nname = 'n1'\n", 1),
        ("\n\nlimits = 3\n", 3),
        ("[limits]\nburst = 4\n[limits.fields]\nx = 1\n", 3),
    ],
)
def test_a_fault_has_its_line_however_the_key_is_written(folder: Path, text: str, line: int) -> None:
    found = faults(folder, text)
    assert [fault.split(":")[0] for fault in found] == [str(line)], found


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("[cluster]\nname = = 'x'\n", [2]),
        ("[cluster\nname = 'x'\n", [1]),
        ("[cluster]\nname = 'x\npartition_groups = 4\n[limits]\nburst = 4 5\nfields = 1\n", [2, 5, 6]),
        ("[cluster]\nname = 'x'\nname = 'y'\n[limits]\nburst =\n", [3, 5]),
        ("[limits]\nburst = 0x\n[replication]\nheartbeat_ms = 020\n[auth]\nprovide = 'jwt'\n", [2, 4, 6]),
        ("[[nodes]]\nname = 'n1\n", [2]),
        ("[[nodes]]\nname = 'n1'\ngateways = ['127.0.0.1:9000'\n[limits]\nburst = 4\n", [4]),
        ('[cluster]\nname = """x\n[limits]\nburst = 4\n', [2]),
        ("a b = [\n1,\n2]\n", [1]),
        ("[limits]\nburst = 4\n[limits]\nfields = 5\n", [3]),
        ("x = " + "[" * 5000, [1]),
    ],
)
def test_broken_lines_are_reported_together(folder: Path, text: str, lines: list[int]) -> None:
    found = faults(folder, text)
    assert [int(fault.split(":")[0]) for fault in found] == lines, found


def test_a_file_that_is_not_utf8_says_which_line(folder: Path) -> None:
    (folder / "cluster.toml").write_bytes(b"[cluster]\nname = '\xff'\n")
    with pytest.raises(ConfigError, match=r"cluster\.toml:2: this line is not UTF-8"):
        load_cluster(folder / "cluster.toml", environ={})


def test_a_file_that_cannot_be_read_says_why(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file or directory"):
        load_cluster(folder / "none.toml", environ={})
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_cluster(folder, environ={})
    (folder / "large.toml").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(ConfigError, match="larger than 1048576 bytes"):
        load_cluster(folder / "large.toml", environ={})


def test_values_are_taken(folder: Path) -> None:
    text = """\
[cluster]
name = "w-1"
partition_groups = 8
[[nodes]]
name = "solo"
gateways = ["[::1]:9000", "localhost:9001"]
[gateway]
allowed_origins = ["https://play.example.com", "*", "null"]
policy_domains = ["*.example.com"]
proxy_protocol = true
[limits]
burst = 7
[replication]
durability = "power"
[[plugins]]
path = "plugins/chat"
groups = [1, 7]
[log]
format = "json"
"""
    config = load(folder, text)
    assert config.cluster.partition_groups == 8
    assert list(map(str, config.nodes[0].gateways)) == ["[::1]:9000", "localhost:9001"]
    assert config.gateway.allowed_origins == ("https://play.example.com", "*", "null")
    assert config.gateway.proxy_protocol
    assert config.limits == Limits(burst=7)
    assert config.replication.durability == "power"
    assert [config.plugins[0].in_group(group) for group in (0, 1, 7)] == [False, True, True]
    assert config.log.format == "json"


def test_limits_come_from_the_dataclass() -> None:
    assert section_hints(Limits).keys() == {item.name for item in dataclasses.fields(Limits)}
    for item in dataclasses.fields(Limits):
        bounds = LIMIT_RANGES[item.name]
        assert isinstance(item.default, int)
        assert bounds.low <= item.default <= bounds.high, item.name


def test_checks_name_keys_that_exist() -> None:
    config = ClusterConfig()
    sections = {**_sections(), "secrets": type(config.local.secrets)}
    for needed, check in CHECKS:
        for key in needed.split():
            section, _, name = key.partition(".")
            assert section in sections, check.__name__
            assert not name or name in section_hints(sections[section]), f"{check.__name__}: {key}"


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("127.0.0.1:1", Endpoint("127.0.0.1", 1)),
        ("[::]:65535", Endpoint("::", 65535)),
        ("a.b:2", Endpoint("a.b", 2)),
    ],
)
def test_endpoints_are_read_and_written_alike(text: str, endpoint: Endpoint) -> None:
    assert Endpoint.parse(text) == endpoint
    assert str(endpoint) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "h",
        "h:",
        ":1",
        "h:0",
        "h:65536",
        "h:-1",
        "h:1 ",
        "h: 1",
        "h:٣",
        "::1:9000",
        "[::1]",
        "[h",
        "256.0.0.1:1",
        "1.2.3:1",
        "-h:1",
        "h h:1",
        "h\n:1",
        "h\x00:1",
        "a..b:1",
        "h:00000000080",
    ],
)
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Endpoint.parse(text)


def test_the_digest_is_of_what_must_be_equal(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    text = "[auth]\nprovider = 'hmac'\nsecret_file = 's'\n[[plugins]]\npath = 'plugins/chat'\n"
    (folder / "s").write_text("k" * 32)
    (folder / "other").write_text("k" * 32)
    here = load(folder, text)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "plugins/chat").mkdir(parents=True)
    (elsewhere / "plugins/chat/plugin.toml").touch()
    (elsewhere / "s").write_text("k" * 32)
    (elsewhere / "local.toml").write_text(
        "log_level = 'debug'\nstate_dir = 's2'\n[secrets]\nauth_secret_file = 's'\n"
    )
    assert load(elsewhere, text).digest == here.digest
    assert load(folder, text.replace("'s'", "'other'")).digest == here.digest
    assert load(folder, "# a comment\n" + text + "[log]\nlevel = 'error'\n").digest == here.digest
    assert re.fullmatch("[0-9a-f]{32}", here.digest)


@pytest.mark.parametrize(
    ("line", "section"),
    [
        ("[cluster]\npartition_groups = 5", "cluster"),
        ("[[nodes]]\nname = 'n2'", "nodes"),
        ("[[nodes]]\nname = 'n1'\ngateways = ['127.0.0.1:9001']", "nodes"),
        ("[gateway]\nkeepalive_ms = 1234", "gateway"),
        ("[gateway]\npolicy_domains = ['*']", "gateway"),
        ("[limits]\nfields = 65", "limits"),
        ("[replication]\ndurability = 'power'", "replication"),
        ("[storage]\ndsn = 'host=db'", "storage"),
        ("[auth]\nallow_anonymous = true", "auth"),
        ("[[plugins]]\npath = 'plugins/chat'", "plugins"),
    ],
)
def test_a_difference_changes_the_digest_and_is_named(folder: Path, line: str, section: str) -> None:
    plain, changed = load(folder, ""), load(folder, line)
    assert plain.digest != changed.digest
    ours, theirs = plain.section_digests, changed.section_digests
    assert [name for name in ours if ours[name] != theirs[name]] == [section]


def test_children_come_to_the_same_configuration(folder: Path) -> None:
    config = load(
        folder, "[log]\nlevel = 'error'\n", CS_STATE_DIR=str(folder / "state"), CS_LOG_FORMAT="json"
    )
    arguments = config.child_arguments()
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert given["--config"] == str(folder / "cluster.toml")
    flags = Overrides(
        state_dir=Path(given["--state-dir"]), log_level=given["--log-level"], log_format=given["--log-format"]
    )
    assert load_cluster(Path(given["--config"]), environ={}, flags=flags) == config
