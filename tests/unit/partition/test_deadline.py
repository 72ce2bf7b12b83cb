"""How long a callback may run, and that it is ended then."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from connserver.config import load_cluster
from connserver.plugin import Context, Object, Plugin
from partition.assembly import assemble
from partition.deadline import Deadline, Patience
from partition.dispatch import Dispatcher
from partition.objects import Store
from partition.plugins_desk import plugin_desk
from tests.unit.partition.stages import ANN, caller

quick, slow = Plugin("quick", version="1.0.0"), Plugin("slow", version="1.0.0")


def work(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


@quick.method("quick.work")
def quick_work(ctx: Context, me: Object, ms: int) -> None:
    work(ms / 1000)


@slow.method("slow.work")
def slow_work(ctx: Context, me: Object, ms: int) -> None:
    work(ms / 1000)


@dataclass(frozen=True)
class Run:
    plugin: str
    started: float


def test_each_plugin_has_its_own_limit() -> None:
    patience = Patience({"quick": 0.05, "slow": 2.0}, 0.25)
    assert patience.shortest == 0.05
    assert not patience.is_over(None, 99.0)
    assert patience.is_over(Run("quick", 10.0), 10.06) and not patience.is_over(Run("quick", 10.0), 10.04)
    assert not patience.is_over(Run("slow", 10.0), 11.9) and patience.is_over(Run("slow", 10.0), 12.1)
    assert patience.is_over(Run("unheard of", 10.0), 10.3)
    assert Patience({}, 0.25).shortest == 0.25


def test_a_callback_is_ended_by_the_limit_of_its_own_plugin() -> None:
    run = Dispatcher(
        Store(), assemble([quick, slow]), random=random.Random(1), on_incident=lambda number, text: None
    )
    assert run.open_user(ANN, "ann").error is None
    patience = Patience({"quick": 0.03, "slow": 5.0}, 0.25)
    deadline = Deadline(patience.shortest, lambda: patience.is_over(run.running, time.perf_counter()))
    with deadline:
        long = run.call("slow.work", {"ms": 150}, me=ANN, caller=caller(), now=1.0)
        ended = run.call("quick.work", {"ms": 5_000}, me=ANN, caller=caller(), now=1.0)
    assert long.error is None
    assert ended.error is not None and ended.error.error == "timeout"


def test_limits_are_read_for_the_names_that_plugins_have_and_for_one_group(tmp_path: Path) -> None:
    for folder, name in (("a", "quick"), ("b", "slow"), ("c", "absent")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "plugin.toml").write_text(
            f'name = "{name}"\nversion = "1.0.0"\nlanguage = "python"\nentry = "main.py"\n'
        )
        (tmp_path / folder / "main.py").write_text(
            f'from connserver import Plugin\nplugin = Plugin("{name}", version="1.0.0")\n'
        )
    file = tmp_path / "cluster.toml"
    file.write_text(
        '[cluster]\nname = "limits"\npartition_groups = 2\n[[nodes]]\nname = "n1"\n'
        '[[plugins]]\npath = "a"\nhandler_timeout_ms = 50\n'
        '[[plugins]]\npath = "b"\nhandler_timeout_ms = 2000\n'
        '[[plugins]]\npath = "c"\ngroups = [1]\nhandler_timeout_ms = 10\n'
    )
    desks = [plugin_desk(load_cluster(file), tmp_path / "state", group) for group in range(2)]
    for desk in desks:
        desk.prefetch()
    patience = desks[0].current.patience
    assert patience.shortest == 0.05
    assert not patience.is_over(Run("slow", 0.0), 1.9) and patience.is_over(Run("slow", 0.0), 2.0)
    assert desks[1].current.patience.shortest == 0.01


@pytest.mark.parametrize("limit", [0.05, 7.0])
def test_one_plugin_alone_sets_the_pace(limit: float) -> None:
    assert Patience({"only": limit}, 0.25).shortest == limit
