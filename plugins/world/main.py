"""A small shared world: players with gold and things, zones with a ground, trade between players.

Players live wherever their names hash to, and a zone wherever its own does. Whatever passes from one
to another leaves the giver first, travels with the call, and comes back if the receiver refuses; so
no thing and no coin is ever lost or doubled, whichever machine dies in between.
"""

import re
from typing import Any

from connserver import Context, Object, Plugin, Ref, Refused, Reply, Result, transient

plugin = Plugin("world", version="2.0.0")

BAG_SIZE = 64
GROUND_SIZE = 1000
SIGHT = 50.0
THING_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")


@plugin.kind("player", schema=2)
class Player(Object):
    zone: str = "z0"
    gold: int = 0
    bag: list[str] = []
    offers: dict[str, int] = {}
    x: float = transient(0.0)


@plugin.kind("thing", index=["npc"])
class Thing(Object):
    zone: str
    name: str
    npc: bool = False
    x: float = transient(0.0)


@plugin.kind("zone")
class Zone(Object):
    ground: list[str] = []


@plugin.migrate(Player, to=2)
def bags_were_text(fields: dict[str, Any]) -> dict[str, Any]:
    """In schema 1 a bag was one text with commas."""
    bag = fields.get("bag", "")
    return {**fields, "bag": [thing for thing in bag.split(",") if thing]} if isinstance(bag, str) else fields


# --- moving and looking ---


@plugin.on_join
def arrive(ctx: Context, me: Player) -> None:
    ctx.view((me.x, 0), SIGHT)
    ctx.room(me.zone).join(me)


@plugin.method("world.move", rate_hz=20)
def move(ctx: Context, me: Player, x: float) -> None:
    if abs(x - me.x) > 2:
        raise Refused("world.too_fast")
    me.x = x
    ctx.view((x, 0), SIGHT)
    ctx.room(me.zone).update("pos", {"x": x}, at=(x, 0))


@plugin.method("world.go")
def go(ctx: Context, me: Player, zone: str) -> dict[str, object]:
    check_name(zone)
    if zone != me.zone:
        ctx.room(me.zone).leave(me)
        ctx.room(zone).join(me)
        me.zone, me.x = zone, 0.0
        ctx.view((0, 0), SIGHT)
    return {"zone": zone}


@plugin.method("world.look")
def look(ctx: Context, me: Player) -> Reply:
    return ctx.call(zone_of(ctx, me), show)


@plugin.internal(create=True)
def show(ctx: Context, me: Zone) -> dict[str, object]:
    npcs = [npc for npc in ctx.objects.where(Thing, npc=True) if npc.zone == me.named]
    return {
        "zone": me.named,
        "things": me.ground,
        "npcs": [{"oid": npc.ref, "name": npc.name, "x": npc.x} for npc in npcs],
    }


@plugin.method("world.inventory")
def inventory(ctx: Context, me: Player) -> dict[str, object]:
    return {"gold": me.gold, "bag": me.bag, "offers": me.offers}


# --- things: bag, ground, other players ---


@plugin.method("world.take")
def take(ctx: Context, me: Player, thing: str) -> Reply:
    check_room(me)
    return ctx.call(zone_of(ctx, me), lift, thing=thing, then=taken)


@plugin.internal(create=True)
def lift(ctx: Context, me: Zone, thing: str) -> None:
    if thing not in me.ground:
        raise Refused("world.not_here")
    me.ground.remove(thing)
    ctx.room(me.named).send(event="taken", thing=thing)


@plugin.internal
def taken(ctx: Context, me: Player, result: Result, thing: str) -> Result:
    if result.ok:
        me.bag.append(thing)
    return result


@plugin.method("world.drop")
def drop(ctx: Context, me: Player, thing: str) -> Reply:
    remove(me, thing)
    return ctx.call(zone_of(ctx, me), lay, thing=thing, then=back_if_refused)


@plugin.internal(create=True)
def lay(ctx: Context, me: Zone, thing: str) -> None:
    if len(me.ground) >= GROUND_SIZE:
        raise Refused("world.ground_full")
    me.ground.append(thing)
    ctx.room(me.named).send(event="dropped", thing=thing)


@plugin.method("world.give")
def give(ctx: Context, me: Player, to: Ref[Player], thing: str) -> Reply:
    remove(me, thing)
    return ctx.call(to, receive, thing=thing, then=back_if_refused)


@plugin.internal
def receive(ctx: Context, me: Player, thing: str) -> None:
    check_room(me)
    me.bag.append(thing)
    ctx.tell(me, "world.received", thing=thing, giver=ctx.user_name)


@plugin.internal
def back_if_refused(ctx: Context, me: Player, result: Result, thing: str) -> Result:
    if not result.ok:
        me.bag.append(thing)
    return result


# --- trade ---


@plugin.method("trade.offer")
def offer(ctx: Context, me: Player, thing: str, price: int) -> None:
    if price < 0 or thing in me.offers:
        raise Refused("trade.bad_offer")
    remove(me, thing)
    me.offers[thing] = price


@plugin.method("trade.withdraw")
def withdraw(ctx: Context, me: Player, thing: str) -> None:
    if thing not in me.offers:
        raise Refused("trade.gone")
    del me.offers[thing]
    me.bag.append(thing)


@plugin.method("trade.offers")
def offers(ctx: Context, me: Player, seller: Ref[Player]) -> Reply:
    return ctx.call(seller, list_offers)


@plugin.internal
def list_offers(ctx: Context, me: Player) -> dict[str, object]:
    return {"offers": [{"thing": thing, "price": price} for thing, price in me.offers.items()]}


@plugin.method("trade.buy")  # the seller filled `offers`; it may live on another shard
def buy(ctx: Context, me: Player, seller: Ref[Player], thing: str, price: int) -> Reply:
    if not 0 <= price <= me.gold:
        raise Refused("trade.too_poor")
    me.gold -= price  # escrow, committed with the call that leaves
    return ctx.call(seller, hand_over, thing=thing, price=price, then=settle)


@plugin.internal  # never callable by a client
def hand_over(ctx: Context, me: Player, thing: str, price: int) -> None:
    if me.offers.get(thing) != price:
        raise Refused("trade.gone")
    del me.offers[thing]
    me.gold += price


@plugin.internal
def settle(ctx: Context, me: Player, result: Result, thing: str, price: int) -> Result:
    if result.ok:
        me.bag.append(thing)
    else:
        me.gold += price
    return result


# --- builders and the world's own life ---


@plugin.method("world.place", roles=["builder"])
def place(ctx: Context, me: Player, thing: str) -> Reply:
    check_name(thing)
    return ctx.call(zone_of(ctx, me), lay, thing=thing)


@plugin.method("world.spawn", roles=["builder"])
def spawn(ctx: Context, me: Player, name: str) -> Reply:
    return ctx.call(zone_of(ctx, me), spawn_here, name=name)


@plugin.internal(create=True)
def spawn_here(ctx: Context, me: Zone, name: str) -> dict[str, object]:
    npc = ctx.objects.create(Thing, near=me, zone=me.named, name=name, npc=True)
    return {"oid": npc.ref}


@plugin.every(hz=5, kind=Thing, where={"npc": True})
def think(ctx: Context) -> None:
    for npc in ctx.objects.where(Thing, npc=True):
        npc.x += ctx.random.uniform(-1, 1) * ctx.dt


# --- rules ---


def zone_of(ctx: Context, me: Player) -> Ref[Zone]:
    return ctx.objects.named(Zone, me.zone)


def check_name(name: str) -> None:
    if not THING_NAME.fullmatch(name):
        raise Refused("world.bad_name", "at most 32 of a-z, 0-9, '_' and '-', a letter first")


def check_room(me: Player) -> None:
    if len(me.bag) >= BAG_SIZE:
        raise Refused("world.bag_full")


def remove(me: Player, thing: str) -> None:
    if thing not in me.bag:
        raise Refused("world.not_yours")
    me.bag.remove(thing)
