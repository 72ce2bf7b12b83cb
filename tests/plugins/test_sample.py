"""The plugin by which the API is explained, run as it is written there, short lines and all."""

from __future__ import annotations

from pathlib import Path

from partition.testing import TestWorld

SAMPLE = """\
from connserver import Context, Object, Plugin, Ref, Refused, Reply, Result, transient

plugin = Plugin("world", version="2.0.0")

@plugin.kind("player", schema=2)
class Player(Object):
    zone: str = "z0"; gold: int = 0; bag: list[str] = []; offers: dict[str, int] = {}
    x: float = transient(0.0)

@plugin.kind("thing", index=["npc"])
class Thing(Object):
    zone: str; name: str; npc: bool = False; x: float = transient(0.0)

@plugin.method("world.move", rate_hz=20)
def move(ctx: Context, me: Player, x: float) -> None:
    if abs(x - me.x) > 2: raise Refused("world.too_fast")
    me.x = x; ctx.room(me.zone).update("pos", {"x": x}, at=(x, 0))

@plugin.method("trade.buy")                      # the seller filled `offers`; it may live on another shard
def buy(ctx: Context, me: Player, seller: Ref[Player], thing: str, price: int) -> Reply:
    if not 0 <= price <= me.gold: raise Refused("trade.too_poor")
    me.gold -= price                             # escrow, committed with the call that leaves
    return ctx.call(seller, hand_over, thing=thing, price=price, then=settle)

@plugin.internal                                 # never callable by a client
def hand_over(ctx: Context, me: Player, thing: str, price: int) -> None:
    if me.offers.get(thing) != price: raise Refused("trade.gone")
    del me.offers[thing]; me.gold += price

@plugin.internal
def settle(ctx: Context, me: Player, result: Result, thing: str, price: int) -> Result:
    if result.ok: me.bag.append(thing)
    else: me.gold += price
    return result

@plugin.every(hz=5)
def think(ctx: Context) -> None:
    for npc in ctx.objects.where(Thing, npc=True): npc.x += ctx.random.uniform(-1, 1) * ctx.dt
"""

MANIFEST = 'name = "world"\nversion = "2.0.0"\nlanguage = "python"\nentry = "main.py"\n'


def test_the_sample_runs_as_written(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(SAMPLE)
    (tmp_path / "plugin.toml").write_text(MANIFEST)
    world = TestWorld([tmp_path])
    ann, dora = world.login("ann"), world.login("dora")
    world.put(ann, gold=10)
    world.put(dora, offers={"sword": 4})
    npc = world.create("thing", near=ann, zone="z0", name="wolf", npc=True)
    assert ann.call("world.move", x=2)["status"] == 0
    assert ann.call("world.move", x=9)["code"] == "world.too_fast"
    assert ann.call("trade.buy", seller=dora.oid, thing="sword", price=11)["code"] == "trade.too_poor"
    assert ann.call("trade.buy", seller=dora.oid, thing="sword", price=5)["code"] == "trade.gone"
    assert ann.call("trade.buy", seller=dora.oid, thing="sword", price=4)["status"] == 0
    assert ann.call("hand_over", thing="sword", price=0)["error"] == "unknown_method"
    assert world.fields(ann) == {"zone": "z0", "gold": 6, "bag": ["sword"], "offers": {}, "x": 2.0}
    assert world.fields(dora) == {"zone": "z0", "gold": 4, "bag": [], "offers": {}, "x": 0.0}
    world.advance(1.0)
    assert world.fields(npc)["x"] != 0.0
    assert world.all("thing")[npc]["npc"] is True
    world.check()
