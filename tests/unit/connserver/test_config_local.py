"""What is a host's own: which of flags, variables, local.toml and cluster.toml wins, and its faults."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from connserver.config import ClusterConfig, Overrides, load_cluster
from connserver.config.local import default_state_dir
from connserver.errors import ConfigError

NODES = "".join(f"[[nodes]]\nname = 'n{number}'\n" for number in (1, 2, 3))


def load(
    folder: Path, *, local: str | None = None, text: str = "", flags: Overrides | None = None, **environ: str
) -> ClusterConfig:
    (folder / "cluster.toml").write_text(text + NODES)
    if local is not None:
        (folder / "local.toml").write_text(local)
    return load_cluster(folder / "cluster.toml", environ={"HOME": str(folder), **environ}, flags=flags)


def faults(folder: Path, *, local: str = "", text: str = "", **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, local=local, text=text, **environ)
    return [str(fault).replace(f"{folder}/", "") for fault in caught.value.faults]


def test_flags_win_over_variables_over_local_over_cluster(tmp_path: Path) -> None:
    shared = "[log]\nlevel = 'error'\n"
    assert load(tmp_path, text=shared).log.level == "error"
    local = "log_level = 'warning'\nnode = 'n1'\nstate_dir = 'one'\n"
    config = load(tmp_path, text=shared, local=local)
    assert (config.log.level, config.local.node, config.local.state_dir) == (
        "warning",
        "n1",
        tmp_path / "one",
    )
    environ = {"CS_LOG_LEVEL": "info", "CS_NODE": "n2", "CS_STATE_DIR": "/two"}
    config = load(tmp_path, text=shared, local=local, **environ)
    assert (config.log.level, config.local.node, config.local.state_dir) == ("info", "n2", Path("/two"))
    flags = Overrides(log_level="debug", node="n3", state_dir=Path("/three"))
    config = load(tmp_path, text=shared, local=local, flags=flags, **environ)
    assert (config.log.level, config.local.node, config.local.state_dir) == ("debug", "n3", Path("/three"))


def test_each_key_falls_through_by_itself(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        local="node = 'n1'\nlog_format = 'json'\n",
        flags=Overrides(node="n2"),
        CS_LOG_LEVEL="debug",
        CS_STATE_DIR="",
    )
    assert (config.local.node, config.log.format, config.log.level) == ("n2", "json", "debug")
    assert config.local.state_dir == default_state_dir({"HOME": str(tmp_path)})


def test_relative_paths_begin_where_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load(tmp_path, local="state_dir = 'a/../b'\n").local.state_dir == tmp_path / "b"
    assert load(tmp_path, local="", CS_STATE_DIR="b").local.state_dir == tmp_path / "elsewhere/b"
    flags = Overrides(state_dir=Path("b"))
    assert load(tmp_path, flags=flags).local.state_dir == tmp_path / "elsewhere/b"


def test_a_host_runs_its_node_or_all(tmp_path: Path) -> None:
    assert [node.name for node in load(tmp_path).host_nodes] == ["n1", "n2", "n3"]
    assert [node.name for node in load(tmp_path, CS_NODE="n2").host_nodes] == ["n2"]


def test_the_default_state_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_state_dir({"XDG_STATE_HOME": "/x"}) == Path("/var/lib/connserver")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_state_dir({"XDG_STATE_HOME": "/x"}) == Path("/x/connserver")
    assert default_state_dir({}) == tmp_path / ".local/state/connserver"
    assert default_state_dir({"XDG_STATE_HOME": "relative"}) == tmp_path / ".local/state/connserver"


def test_secret_files_of_the_host_win(tmp_path: Path) -> None:
    for name in ("shared", "own", "named"):
        (tmp_path / name).write_text("k" * 32)
    text = "auth.provider = 'hmac'\nauth.secret_file = 'shared'\n"
    assert load(tmp_path, text=text).auth.secret_file == tmp_path / "shared"
    local = "[secrets]\nauth_secret_file = 'own'\ntls_certificate_file = 'own'\ntls_key_file = 'named'\n"
    config = load(tmp_path, text=text, local=local)
    assert config.auth.secret_file == tmp_path / "own"
    assert (config.gateway.tls_certificate_file, config.gateway.tls_key_file) == (
        tmp_path / "own",
        tmp_path / "named",
    )
    config = load(tmp_path, text=text, local=local, CS_AUTH_SECRET_FILE=str(tmp_path / "named"))
    assert config.auth.secret_file == tmp_path / "named"


def test_a_dsn_with_a_password_comes_from_a_file_and_is_never_shown(tmp_path: Path) -> None:
    (tmp_path / "dsn").write_text("host=db password=hunter2\n")
    config = load(tmp_path, local="[secrets]\ndsn_file = 'dsn'\n", text="storage.archive_interval_ms = 100\n")
    assert config.storage.dsn == "host=db password=hunter2"
    assert "hunter2" not in repr(config)
    (tmp_path / "dsn").write_text("host=db password=changed\n")
    assert load(tmp_path).storage.dsn != config.storage.dsn
    assert load(tmp_path, text="storage.archive_interval_ms = 100\n").digest == config.digest


def test_faults_of_local_toml_have_lines(tmp_path: Path) -> None:
    local = "nod = 'n1'\nlog_level = 'loud'\nstate_dir = 3\n[secrets]\ndsn_file = 'none'\n"
    assert faults(tmp_path, local=local) == [
        "local.toml:1: unknown key 'nod'; did you mean 'node'?",
        "local.toml:2: log_level: \"loud\" is not one of 'debug', 'info', 'warning', 'error'",
        "local.toml:3: state_dir: 3 is not a path in quotes",
        "local.toml:5: none cannot be read: No such file or directory",
    ]


def test_broken_lines_of_local_toml_are_reported_with_the_rest(tmp_path: Path) -> None:
    found = faults(tmp_path, local="node = = 1\n[secret]\n", text="cluster.nam = 'x'\n")
    assert [fault.split(" ")[0] for fault in found] == ["cluster.toml:1:", "local.toml:1:", "local.toml:2:"]


def test_an_unknown_node_is_named_where_it_was_given(tmp_path: Path) -> None:
    assert faults(tmp_path, local="\nnode = 'n4'\n")[0].startswith("local.toml:2: there is no node 'n4' in ")
    assert faults(tmp_path, CS_NODE="n")[0].startswith(
        "environment variable CS_NODE: there is no node 'n' in "
    )
    with pytest.raises(ConfigError, match=r"--node: there is no node 'x'"):
        load(tmp_path, local="", flags=Overrides(node="x"))


def test_faults_of_variables_name_them(tmp_path: Path) -> None:
    assert faults(tmp_path, CS_LOG_LEVEL="loud", CS_STATEDIR="x", CS_OTHER="is not ours") == [
        'environment variable CS_LOG_LEVEL: log_level: "loud" is not one of '
        "'debug', 'info', 'warning', 'error'",
        "environment variable CS_STATEDIR: unknown; did you mean 'CS_STATE_DIR'?",
    ]


def test_a_missing_secret_is_reported_where_it_was_named(tmp_path: Path) -> None:
    assert faults(tmp_path, CS_DSN_FILE="/none") == [
        "environment variable CS_DSN_FILE: /none cannot be read: No such file or directory"
    ]
