"""Which group a client belongs to: by its user, its resume token, or neither yet."""

from __future__ import annotations

from connserver.ids import GroupId, ObjectId, group_of, named_id, parse_oid, partition_of
from connserver.routes import OWNER_SILENCE_S, Rank, RouteTable, rank

__all__ = [
    "OWNER_SILENCE_S",
    "Rank",
    "RouteTable",
    "home_of_connection",
    "home_of_token",
    "home_of_user",
    "rank",
]


def home_of_user(name: str, groups: int) -> tuple[ObjectId, GroupId]:
    """The user object's id and the group in which a session of this user lives."""
    oid = named_id("user", name)
    return oid, group_of(partition_of(oid), groups)


def home_of_token(token: str, groups: int) -> GroupId:
    """The group of the session a resume token belongs to; ValueError if it is no such token."""
    oid, dot, secret = token.partition(".")
    if not dot or not secret or len(oid) != 16 or ":" in oid:
        raise ValueError("a resume token is what the last login or resume gave, unchanged")
    return group_of(partition_of(parse_oid(oid)), groups)


def home_of_connection(number: int, groups: int) -> GroupId:
    """The group that answers a connection which has no session yet; spreads them evenly."""
    return GroupId(number % groups)
