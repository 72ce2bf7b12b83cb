"""What follows from a Role."""

import dataclasses

import pytest

from connserver.messages import BACKUP, DRAINING, PRIMARY, Role
from partition.duty import Act, Standing, judge

BACKING = Standing(era=2, applied=40)
SERVING = Standing(era=2, applied=40, grant=9, gossip=77)


def role(name: str, grant: int = 0, **more: object) -> Role:
    told = Role(3, grant, name, 2, 6, True, 40, 30, 77)
    return dataclasses.replace(told, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("told", "standing", "act"),
    [
        # no state yet
        (role(PRIMARY, 9), Standing(), Act.NOTHING),
        (role(BACKUP, attached=False), Standing(), Act.NOTHING),
        # a backup
        (role(BACKUP), BACKING, Act.NOTHING),
        (role(BACKUP, attached=False), BACKING, Act.REPEAT),
        (role(BACKUP, era=3), BACKING, Act.RELOAD),
        (role(BACKUP, era=0, attached=False), BACKING, Act.REPEAT),
        (role(PRIMARY, 9), BACKING, Act.PROMOTE),
        (role(PRIMARY, 9, era=3), BACKING, Act.RELOAD),
        (role(PRIMARY, 9, era=1), BACKING, Act.NOTHING),
        (role(PRIMARY, 9, commit=39), BACKING, Act.ARCHIVE_AHEAD),
        (role(PRIMARY, 9, commit=41), BACKING, Act.BEGIN_ANEW),
        (role(PRIMARY, 0), BACKING, Act.NOTHING),
        (role(PRIMARY, 9), dataclasses.replace(BACKING, void=9), Act.NOTHING),
        (role(PRIMARY, 10), dataclasses.replace(BACKING, void=9), Act.PROMOTE),
        (role(DRAINING, 9), BACKING, Act.DRAINED),
        # one that executes
        (role(PRIMARY, 9), SERVING, Act.NOTHING),
        (role(PRIMARY, 9, commit=99), SERVING, Act.NOTHING),
        (role(DRAINING, 9), SERVING, Act.DRAIN),
        (role(DRAINING, 9), dataclasses.replace(SERVING, draining=True), Act.NOTHING),
        (role(PRIMARY, 9), dataclasses.replace(SERVING, draining=True), Act.GO_ON),
        (role(BACKUP), SERVING, Act.LOSE),
        (role(BACKUP, 9), SERVING, Act.LOSE),
        (role(PRIMARY, 10), SERVING, Act.LOSE),
        (role(PRIMARY, 9, gossip=78), SERVING, Act.LOSE),
        (role(PRIMARY, 9, era=3), SERVING, Act.LOSE),
    ],
)
def test_a_role_says_what_to_do(told: Role, standing: Standing, act: Act) -> None:
    assert judge(told, standing) is act
