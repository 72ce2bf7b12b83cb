"""`TestWorld`: a cluster in one object, for the tests of plugins.

The transactions, dispatch, sessions, rooms and exactly-once calls between partition groups are those
that the workers run; only the processes, sockets and the clock are missing. Time stands still until
`advance`. `steps_of` proves that a plugin gets through the death of a worker after any commit:

    from partition.testing import TestWorld

    world = TestWorld(["plugins/world"])
    ann = world.login("ann")
    bob = world.login("bob", apart_from=ann)
    world.put(ann, gold=10)
    for step in world.steps_of(lambda: ann.call("trade.buy", seller=bob.oid, thing="sword", price=5)):
        assert world.fields(ann)["gold"] + world.fields(bob)["gold"] == 10, step

Guards one rule: nothing here decides how a plugin is run. What a test sees is what a cluster does.
"""

from partition.testing.client import Client
from partition.testing.steps import Step
from partition.testing.world import TestWorld

__all__ = ["Client", "Step", "TestWorld"]
