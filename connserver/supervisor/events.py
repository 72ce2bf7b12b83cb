"""What happens to the processes of a host, and what is done about it: the tree's input and output."""

from __future__ import annotations

from dataclasses import dataclass

from connserver.supervisor.plan import ProcessSpec

# --- events -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begun:
    """Start everything."""


@dataclass(frozen=True, slots=True)
class Forked:
    """The process asked for by Spawn exists."""

    name: str
    pid: int


@dataclass(frozen=True, slots=True)
class BecameReady:
    """The process said that it serves."""

    name: str
    pid: int
    endpoint: str


@dataclass(frozen=True, slots=True)
class Waits:
    """The process said what it waits for."""

    name: str
    pid: int
    reason: str


@dataclass(frozen=True, slots=True)
class Died:
    """The process is gone, or (pid 0) could not be made; `reason` in words.

    `anew`: it asked to be started again (its exit status was START_ANEW).
    """

    name: str
    pid: int
    reason: str
    anew: bool = False


@dataclass(frozen=True, slots=True)
class Replanned:
    """From now on these are to run: new ones start, those that are missing stop and are forgotten."""

    specs: tuple[ProcessSpec, ...]


@dataclass(frozen=True, slots=True)
class RestartAsked:
    """Stop these and start them again; those left down are tried anew."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StopAsked:
    """Stop everything; `at_once`: without the grace."""

    at_once: bool = False


@dataclass(frozen=True, slots=True)
class Ticked:
    """Nothing but time has passed."""


Event = Begun | Forked | BecameReady | Waits | Died | Replanned | RestartAsked | StopAsked | Ticked


# --- effects ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spawn:
    """Make this process; answered by Forked or Died."""

    name: str


@dataclass(frozen=True, slots=True)
class Signal:
    """Send SIGTERM, or SIGKILL when `hard`."""

    name: str
    pid: int
    hard: bool


@dataclass(frozen=True, slots=True)
class Note:
    """Something an operator wants to read in the log."""

    event: str
    name: str
    detail: str


@dataclass(frozen=True, slots=True)
class Changed:
    """The table of processes is another one."""


@dataclass(frozen=True, slots=True)
class AllStopped:
    """Nothing is alive any more and nothing will start: the end."""


Effect = Spawn | Signal | Note | Changed | AllStopped
