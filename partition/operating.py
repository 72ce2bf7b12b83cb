"""What an operator may ask a primary worker: looking into its world, and ordinary writes to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from connserver.errors import ClientError
from connserver.ids import format_oid, object_id, parse_oid
from connserver.limits import ADMIN_ROWS, ROOM_NAME_CHARS, ROOM_WHO_PAGE, USER_NAME_CHARS
from connserver.messages import AdminRequest
from partition.effects import Outcome
from partition.group import Group
from partition.quarantine import Quarantine
from partition.serving import Serving

Arguments = dict[str, Any]

RELEASE = "worker.release"
"""Let run again what is quarantined under an incident."""


def operate_in_turn(
    serving: Serving, quarantine: Quarantine, request: AdminRequest, clock: Callable[[], float]
) -> None:
    """Carry out a command between two calls; it is answered when what it did and saw is safe."""

    def carry_out() -> tuple[Any, str]:
        try:
            if request.command == RELEASE:
                return {"released": quarantine.release(str(request.arguments.get("incident", "")))}, ""
            return operate(serving.group, request.command, request.arguments, clock()), ""
        except (ClientError, ValueError) as error:
            return None, str(error)

    serving.administer(request.number, carry_out)


def operate(group: Group, command: str, arguments: Arguments, now: float) -> Any:
    """Carry out one command; ValueError or ClientError says why not."""
    handler = COMMANDS.get(command)
    if handler is None:
        raise ValueError(f"a worker knows no command {command!r}; it knows {', '.join(sorted(COMMANDS))}")
    return handler(group, arguments, now)


def _get(group: Group, arguments: Arguments, now: float) -> Any:
    return group.dispatcher.admin_get(_oid(arguments))


def _list(group: Group, arguments: Arguments, now: float) -> Any:
    after = arguments.get("after") or ""
    limit = arguments.get("limit", ADMIN_ROWS)
    if type(limit) is not int or not 1 <= limit <= ADMIN_ROWS:
        raise ValueError(f"limit: a whole number from 1 to {ADMIN_ROWS} is wanted")
    kind = arguments.get("kind") or ""
    return group.dispatcher.admin_list(kind, parse_oid(after) if after else -1, limit)


def _put(group: Group, arguments: Arguments, now: float) -> Any:
    fields = arguments.get("fields")
    if not isinstance(fields, dict):
        raise ValueError("fields: a map is wanted")
    oid = _oid(arguments) if arguments.get("oid") else None
    near = parse_oid(arguments["near"]) if arguments.get("near") else object_id(group.first_partition, 0)
    return _write(group, group.dispatcher.admin_put(oid, str(arguments.get("kind", "")), fields, near), now)


def _delete(group: Group, arguments: Arguments, now: float) -> Any:
    return _write(group, group.dispatcher.admin_delete(_oid(arguments)), now)


def _write(group: Group, outcome: Outcome, now: float) -> Any:
    if outcome.error is not None:
        raise outcome.error
    group.apply(outcome, now)
    return outcome.result or {}


def _kick(group: Group, arguments: Arguments, now: float) -> Any:
    group.at(now)
    return {"sessions": group.kick(_oid(arguments))}


def _retry(group: Group, arguments: Arguments, now: float) -> Any:
    group.at(now)
    group.retry_call(_oid(arguments))
    return {}


def _sessions(group: Group, arguments: Arguments, now: float) -> Any:
    after = _text(arguments, "after", 32)
    above = parse_oid(after) if after else -1
    found = [session for session in group.sessions.everyone() if session.oid > above]
    found.sort(key=lambda session: session.oid)
    rows = [
        {
            "session": format_oid(session.oid),
            "user": session.name,
            "oid": format_oid(session.user),
            "connected": session.place is not None,
            "rooms": sorted(session.rooms),
        }
        for session in found[:ADMIN_ROWS]
    ]
    return {"sessions": rows, "next": rows[-1]["session"] if len(found) > len(rows) else ""}


def _rooms(group: Group, arguments: Arguments, now: float) -> Any:
    after = _text(arguments, "after", ROOM_NAME_CHARS)
    names = [name for name in group.rooms.names() if name > after]
    page = names[:ADMIN_ROWS]
    return {
        "rooms": [group.rooms.describe(name) for name in page],
        "next": page[-1] if len(names) > len(page) else "",
    }


def _members(group: Group, arguments: Arguments, now: float) -> Any:
    after = _text(arguments, "after", USER_NAME_CHARS)
    members, more = group.rooms.who(_text(arguments, "room", ROOM_NAME_CHARS), after, ROOM_WHO_PAGE)
    return {"members": members, "next": members[-1] if more else ""}


def _parked(group: Group, arguments: Arguments, now: float) -> Any:
    after = _text(arguments, "after", 32)
    above = parse_oid(after) if after else -1
    rows = [row for row in group.calls.describe_parked() if parse_oid(row["call"]) > above]
    page = rows[:ADMIN_ROWS]
    return {"calls": page, "next": page[-1]["call"] if len(rows) > len(page) else ""}


def _text(arguments: Arguments, name: str, most: int) -> str:
    value = arguments.get(name, "")
    if not isinstance(value, str) or len(value) > most:
        raise ValueError(f"{name}: a text of at most {most} characters is wanted")
    return value


def _oid(arguments: Arguments) -> int:
    oid = arguments.get("oid")
    if not isinstance(oid, str):
        raise ValueError("oid: an object id is wanted")
    return parse_oid(oid)


COMMANDS: dict[str, Callable[[Group, Arguments, float], Any]] = {
    "object.get": _get,
    "object.list": _list,
    "object.put": _put,
    "object.delete": _delete,
    "worker.kick": _kick,
    "worker.retry": _retry,
    "worker.sessions": _sessions,
    "worker.rooms": _rooms,
    "worker.members": _members,
    "worker.parked": _parked,
}
