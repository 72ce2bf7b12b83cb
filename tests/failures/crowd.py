"""A gateway that dies with a crowd on it: everybody's requests under way, in rooms, none of them idempotent.

Guards one rule: the kill counts only if it met full windows. So all clients begin at the gateway that dies,
ask for more than it can answer, and `run` says of each how much was open when it was struck.
"""

from __future__ import annotations

from typing import Final

from tests.failures import trial
from tests.failures.faults import KillGateway
from tests.failures.judge import Demand
from tests.failures.load import Load
from tests.failures.nodes import World
from tests.failures.reading import History, notes, read
from tests.failures.transcript import Part
from tests.failures.wire import BOTH
from tests.failures.workloads import AUDITOR, home

OPEN: Final = 4_800
"""Requests open in all: more than are answered while a process is being killed."""
LEAST_WINDOW: Final = 16
IN_FLIGHT: Final = 8
MEMBERS_PER_ROOM: Final = 50
TALKERS_PER_ROOM: Final = 2
PERIOD_S: Final = 0.05
STALL_S: Final = 6.0
"""A crowd is answered slowly: whoever waits this long for anything at all is with a dead gateway."""


class KillCrowdedGateway(KillGateway):
    """The gateway at which the crowd begins."""

    gateway = 2


def parts(clients: int, tag: str, groups: int) -> list[Part]:
    """So many users of their own, all members of some room; a few of each room talk, the others count."""
    found = []
    for number in range(clients):
        room, place = divmod(number, MEMBERS_PER_ROOM)
        user = f"{tag}-crowd{number}"
        role = "talker" if place < TALKERS_PER_ROOM else "writer"
        encoding = BOTH[number % len(BOTH)]
        found.append(Part(number, user, role, encoding, home("user", user, groups), f"{tag}-room{room}"))
    return found


def run(world: World, clients: int, *, tag: str, seed: int = 1) -> trial.Result:
    """One gateway killed under `clients`; besides the verdict, each must have had its window open."""
    fault = KillCrowdedGateway()
    load = Load(
        world.gateways,
        parts(clients, tag, world.groups),
        seed=seed,
        window=max(LEAST_WINDOW, OPEN // clients),
        period_s=PERIOD_S,
        stall_s=STALL_S,
        first_gateway=fault.gateway,
    )
    result = trial.carry_out(
        world, f"crowd {clients}", fault, load, seed, Demand(least_acked=clients * IN_FLIGHT), full=True
    )
    struck = next(at for at, text in notes(result.transcript) if text.startswith("strike"))
    histories = [one for one in read(result.transcript) if one.part.role != AUDITOR]
    idle = [one.part.user for one in histories if open_at(one, struck) < IN_FLIGHT]
    if idle:
        result.bite = f"{len(idle)} of {clients} clients had fewer than {IN_FLIGHT} requests open: {idle[:3]}"
    stayed = [one.part.user for one in histories if one.connections < 2]
    if stayed:
        result.verdict.accuse("weak", f"{len(stayed)} clients did not resume elsewhere: {stayed[:3]}")
    return result


def open_at(history: History, at: float) -> int:
    """How many of a client's requests had left and were not answered."""
    asked = history.asked.values()
    return sum(one.begun <= at and (not one.answers or one.ended > at) for one in asked)
