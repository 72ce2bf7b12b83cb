"""Every fault by its name, and which rows of the failure matrix each stands for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.failures import faults, faults_inside, faults_network, faults_planned, faults_storage
from tests.failures.faults import Fault

_CLASSES: Final[tuple[type[Fault], ...]] = (
    faults.Nothing,
    faults.KillWorker,
    faults.KillBackupWorker,
    faults.KillGossip,
    faults.KillBackupGossip,
    faults.KillGateway,
    faults.KillParts,
    faults.KillNode,
    faults.KillBackupNode,
    faults.KillAll,
    faults.KillInViewChange,
    faults.RestartLoop,
    faults.LoseDisk,
    faults.LosePrimaryDisk,
    faults.LoseDiskAndNode,
    faults.StopWorker,
    faults.StopGossip,
    faults.StopNode,
    faults.StopBackupNode,
    faults.StopGateway,
    faults.ShortStops,
    faults_network.Isolate,
    faults_network.IsolateBackup,
    faults_network.Mute,
    faults_network.Deaf,
    faults_network.OneWay,
    faults_network.LinkDown,
    faults_network.Apart,
    faults_network.Flapping,
    faults_planned.HandOver,
    faults_storage.PostgresDown,
    faults_storage.PostgresSilent,
    faults_storage.PostgresSlow,
    faults_storage.PostgresDownKillWorker,
    faults_inside.ClockJumps,
    faults_inside.PublishedLost,
    faults_inside.DieInInstall,
    faults_inside.DieReplacingTail,
)
FAULTS: Final[dict[str, Callable[[], Fault]]] = {one.name: one for one in _CLASSES}
NEED_CUTS: Final = frozenset(one.name for one in _CLASSES if one.needs_cuts)
"""These need namespaces; without them they are left out, and said to be."""
NEED_TAMPERING: Final = frozenset(one.name for one in _CLASSES if one.needs_tampering)
"""These need a cluster that can be hurt from within (see tampering)."""
