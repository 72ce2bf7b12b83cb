"""Faults of processes and disks: each strikes, is healed, and can say whether it has bitten.

Guards two rules. A fault that did not take effect must not count as survived: `bitten` looks for its traces
in processes and folders, not at what it meant to do. And a supervisor leaves a process down after five deaths
in a minute, so no fault kills the same process more than twice.

The network's faults are in `faults_network`, those of PostgreSQL in `faults_storage`, those inside
processes in `faults_inside`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterable
from typing import ClassVar

import psutil

from tests.failures.nodes import World, until
from tests.integration.cluster import Mark, wait_for

AGAIN_S = 20.0
"""For a process that was killed to be there again."""


class Fault:
    """One thing that goes wrong. Made anew for every strike.

    `hold_s`: how long it lasts before `heal`. `groups`: partition groups that lose their primary by it,
    known once it has struck.
    """

    name: ClassVar[str]
    hold_s: float = 0.0
    needs_cuts: ClassVar[bool] = False
    needs_tampering: ClassVar[bool] = False

    def __init__(self) -> None:
        self.groups: frozenset[int] = frozenset()
        self.target_group = 0

    def prepare(self, world: World) -> None:
        """Choose whom it strikes, so that the strike itself takes no time."""

    def strike(self, world: World) -> None:
        """Let it happen."""
        raise NotImplementedError

    def heal(self, world: World) -> None:
        """End it, and start what does not start by itself."""

    def bitten(self, world: World) -> str:
        """Why it did not take effect; empty where it did. Asked after `heal`."""
        raise NotImplementedError

    # --- for those below -------------------------------------------------------------------------------

    def primary(self, world: World) -> str:
        """The node that leads the target group now, with all groups that it leads."""
        primaries = wait_for("a primary", world.primaries, AGAIN_S)
        node = primaries[self.target_group]
        self.groups = frozenset(group for group, leader in primaries.items() if leader == node)
        return node

    def backup(self, world: World) -> str:
        """A node that does not lead the target group."""
        primaries = wait_for("a primary", world.primaries, AGAIN_S)
        return next(name for name in reversed(world.network.nodes) if name != primaries[self.target_group])


class Nothing(Fault):
    """The measure of all others: nothing happens."""

    name = "nothing"
    hold_s = 1.0

    def strike(self, world: World) -> None:
        pass

    def bitten(self, world: World) -> str:
        return ""


# --- kill -9 -----------------------------------------------------------------------------------------


class Kill(Fault):
    """SIGKILL of single processes, which their supervisor starts again."""

    def __init__(self) -> None:
        super().__init__()
        self._victims: dict[str, int] = {}

    def victims(self, world: World) -> Iterable[str]:
        """Their names."""
        raise NotImplementedError

    def prepare(self, world: World) -> None:
        self._victims = {name: _living(world, name) for name in self.victims(world)}

    def strike(self, world: World) -> None:
        for pid in self._victims.values():
            os.kill(pid, signal.SIGKILL)

    def bitten(self, world: World) -> str:
        for name, pid in self._victims.items():
            if not _replaced(world, name, pid):
                return f"{name} ({pid}) was not replaced"
        return "" if self._victims else "nothing was killed"


def _living(world: World, name: str) -> int:
    """The pid of a process, as soon as it lives."""
    return wait_for(name, lambda: world.pid(name), AGAIN_S)


def _replaced(world: World, name: str, pid: int) -> bool:
    """Whether another process of this name lives."""
    return until(name, lambda: world.pid(name) not in (0, pid), AGAIN_S)


class KillWorker(Kill):
    """The worker that executes a group."""

    name = "kill-worker"

    def victims(self, world: World) -> Iterable[str]:
        node = self.primary(world)
        self.groups = frozenset({self.target_group})
        return [f"w-{node}-{self.target_group}"]


class KillBackupWorker(Kill):
    """A worker that stands by."""

    name = "kill-backup-worker"

    def victims(self, world: World) -> Iterable[str]:
        return [f"w-{self.backup(world)}-{self.target_group}"]


class KillGossip(Kill):
    """The gossip process below living workers."""

    name = "kill-gossip"

    def victims(self, world: World) -> Iterable[str]:
        return [f"g-{self.primary(world)}"]


class KillBackupGossip(Kill):
    """The same on a node that backs the group up."""

    name = "kill-backup-gossip"

    def victims(self, world: World) -> Iterable[str]:
        return [f"g-{self.backup(world)}"]


class KillGateway(Kill):
    """A gateway with its clients' requests."""

    name = "kill-gateway"

    def victims(self, world: World) -> Iterable[str]:
        return ["gw-n3-0"]


class KillParts(Kill):
    """All processes of a node but its supervisor."""

    name = "kill-parts"

    def victims(self, world: World) -> Iterable[str]:
        pids = world.nodes[self.primary(world)].pids()
        return sorted(name for name in pids if name[:2] in ("g-", "w-", "gw"))


class KillNode(Fault):
    """Every process of the leading node, the supervisor first; it stays away for a while."""

    name = "kill-node"
    hold_s = 2.0

    def __init__(self) -> None:
        super().__init__()
        self._node = ""
        self._dead: list[Mark] = []

    def choose(self, world: World) -> str:
        """The node."""
        return self.primary(world)

    def prepare(self, world: World) -> None:
        self._node = self.choose(world)
        self._dead = world.nodes[self._node].everyone()

    def strike(self, world: World) -> None:
        kill_node(world, self._node, self._dead)

    def heal(self, world: World) -> None:
        world.nodes[self._node].start()
        world.nodes[self._node].wait_up()

    def bitten(self, world: World) -> str:
        left = [mark for mark in self._dead if mark.alive()]
        return f"alive after SIGKILL: {left}" if left or not self._dead else ""


def kill_node(world: World, name: str, everyone: list[Mark] | None = None) -> None:
    """SIGKILL of all processes of a node."""
    node = world.nodes[name]
    for mark in node.everyone() if everyone is None else everyone:
        with contextlib.suppress(ProcessLookupError):
            os.kill(mark.pid, signal.SIGKILL)
    node.bury()


class KillBackupNode(KillNode):
    """The same of a node that backs the group up."""

    name = "kill-backup-node"

    def choose(self, world: World) -> str:
        return self.backup(world)


class LoseDisk(KillBackupNode):
    """While a backup's node is down its disk is replaced by an empty one."""

    name = "lose-disk"

    def heal(self, world: World) -> None:
        self._kept = sum(1 for path in world.nodes[self._node].folder.rglob("*") if path.is_file())
        shutil.rmtree(world.nodes[self._node].folder)
        super().heal(world)

    def bitten(self, world: World) -> str:
        return super().bitten(world) or ("" if self._kept else "there was nothing on the disk")


class LosePrimaryDisk(LoseDisk):
    """The same of the node that leads."""

    name = "lose-primary-disk"

    def choose(self, world: World) -> str:
        return self.primary(world)


class LoseDiskAndNode(Fault):
    """Both backups die, and one of them comes back with an empty disk while the other stays away.

    Then the leader is alone with its log: nothing may be done, `status` has to say why and what to do,
    and with the third node everything goes on. `alone`: from when until when that was (monotonic seconds).
    """

    name = "lose-disk-and-node"
    hold_s = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.alone = (0.0, 0.0)
        self.reasons: list[str] = []
        self._leader = self._lost = self._away = ""
        self._kept = 0

    def prepare(self, world: World) -> None:
        self._leader = self.primary(world)
        self._lost, self._away = (name for name in world.network.nodes if name != self._leader)
        self.groups = frozenset(range(world.groups))

    def strike(self, world: World) -> None:
        for name in (self._lost, self._away):
            kill_node(world, name)
        began = time.monotonic()
        self._kept = sum(1 for path in world.nodes[self._lost].folder.rglob("*") if path.is_file())
        shutil.rmtree(world.nodes[self._lost].folder)
        world.nodes[self._lost].start()
        until("a reason", lambda: self._told(world), AGAIN_S)
        self.alone = began, time.monotonic()

    def _told(self, world: World) -> bool:
        found = world.status(self._leader)
        rows = found["groups"] if found else []
        self.reasons = [row["reason"] for row in rows if row["state"] == "unavailable"]
        return len(self.reasons) == world.groups and all("lost its log" in text for text in self.reasons)

    def heal(self, world: World) -> None:
        self.alone = self.alone[0], time.monotonic()
        world.nodes[self._away].start()
        for name in (self._lost, self._away):
            world.nodes[name].wait_up()

    def bitten(self, world: World) -> str:
        if not self._kept:
            return "there was nothing on the disk"
        lost, away = f"{self._lost} lost its log", f"node {self._away} is dead: start it again"
        if all(lost in text and away in text for text in self.reasons) and len(self.reasons) == world.groups:
            return ""
        return f"status did not say why the groups are not served: {self.reasons}"


class KillAll(Fault):
    """Every process of every node at once; then they are started again."""

    name = "kill-all"

    def __init__(self) -> None:
        super().__init__()
        self._dead: list[Mark] = []

    def prepare(self, world: World) -> None:
        self.groups = frozenset(range(world.groups))
        self._dead = [mark for node in world.nodes.values() for mark in node.everyone()]

    def strike(self, world: World) -> None:
        world.kill_all(self._dead)

    def heal(self, world: World) -> None:
        world.up()

    def bitten(self, world: World) -> str:
        left = [mark for mark in self._dead if mark.alive()]
        return f"alive after SIGKILL: {left}" if left or not self._dead else ""


class KillInViewChange(Kill):
    """The leading gossip, and while the others agree on a new leader, one of those."""

    name = "kill-in-view-change"

    def __init__(self, delay_s: float = 0.15) -> None:
        super().__init__()
        self._delay_s = delay_s

    def victims(self, world: World) -> Iterable[str]:
        leader = self.primary(world)
        other = self.backup(world)
        return [f"g-{leader}", f"g-{other}"]

    def strike(self, world: World) -> None:
        first, second = self._victims.values()
        os.kill(first, signal.SIGKILL)
        time.sleep(self._delay_s)  # the fault itself: where in the change of view the second dies
        os.kill(second, signal.SIGKILL)


class RestartLoop(Kill):
    """The executing worker dies, and its successor, and the next: as often as a supervisor bears."""

    name = "restart-loop"
    _struck = ""

    def victims(self, world: World) -> Iterable[str]:
        node = self.primary(world)
        self.groups = frozenset({self.target_group})
        return [f"w-{node}-{self.target_group}"]

    def strike(self, world: World) -> None:
        for turn in range(3):
            if turn:
                wait_for("its successor", lambda: self._succeeded(world), AGAIN_S)
                self.prepare(world)
            self._struck = world.primaries().get(self.target_group, "")
            super().strike(world)

    def _succeeded(self, world: World) -> bool:
        """What the status says may be of the moment before."""
        return world.primaries().get(self.target_group, self._struck) != self._struck


# --- SIGSTOP -----------------------------------------------------------------------------------------


class Stop(Fault):
    """SIGSTOP, and SIGCONT after `hold_s`."""

    def __init__(self, hold_s: float | None = None) -> None:
        super().__init__()
        self.hold_s = self.hold_s if hold_s is None else hold_s
        self._stopped: list[Mark] = []
        self._were_stopped = False

    def marks(self, world: World) -> list[Mark]:
        """Whom to stop."""
        raise NotImplementedError

    def prepare(self, world: World) -> None:
        self._stopped = self.marks(world)

    def strike(self, world: World) -> None:
        for mark in self._stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(mark.pid, signal.SIGSTOP)
        self._were_stopped = bool(self._stopped) and all(_is_stopped(mark) for mark in self._stopped)

    def heal(self, world: World) -> None:
        for mark in self._stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(mark.pid, signal.SIGCONT)

    def bitten(self, world: World) -> str:
        return "" if self._were_stopped else "nobody was stopped"


def _is_stopped(mark: Mark) -> bool:
    """State T, which the kernel shows a moment after the signal."""
    stat = f"/proc/{mark.pid}/stat"

    def shown() -> bool:
        with contextlib.suppress(OSError), open(stat) as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] == "T"
        return False

    return until("a stopped process", shown, 1.0)


class StopWorker(Stop):
    """The worker that executes a group."""

    name = "stop-worker"
    hold_s = 2.0

    def marks(self, world: World) -> list[Mark]:
        node = self.primary(world)
        self.groups = frozenset({self.target_group})
        return _marks(world, f"w-{node}-{self.target_group}")


class StopGossip(Stop):
    """The leading node's gossip below living workers."""

    name = "stop-gossip"
    hold_s = 2.0

    def marks(self, world: World) -> list[Mark]:
        return _marks(world, f"g-{self.primary(world)}")


class StopNode(Stop):
    """The whole leading node."""

    name = "stop-node"
    hold_s = 2.0

    def marks(self, world: World) -> list[Mark]:
        return world.nodes[self.primary(world)].everyone()


class StopBackupNode(Stop):
    """A whole node that backs the group up."""

    name = "stop-backup-node"
    hold_s = 2.0

    def marks(self, world: World) -> list[Mark]:
        return world.nodes[self.backup(world)].everyone()


class StopGateway(Stop):
    """A gateway with its clients, for longer than they wait."""

    name = "stop-gateway"
    hold_s = 4.0

    def marks(self, world: World) -> list[Mark]:
        return _marks(world, "gw-n3-0")


def _marks(world: World, *names: str) -> list[Mark]:
    return [Mark.of(psutil.Process(world.pid(name))) for name in names]


class ShortStops(Stop):
    """The whole leading node again and again, around the time after which it is given up."""

    name = "stutter"
    hold_s = 0.1

    def __init__(self, lengths_s: tuple[float, ...] = (0.05, 0.1, 0.15, 0.2, 0.4)) -> None:
        super().__init__()
        self._lengths_s = lengths_s

    def marks(self, world: World) -> list[Mark]:
        return world.nodes[self.primary(world)].everyone()

    def strike(self, world: World) -> None:
        for length_s in self._lengths_s:
            self.prepare(world)
            super().strike(world)
            time.sleep(length_s)  # the fault itself
            super().heal(world)
            time.sleep(0.3)
