"""What simulated clients ask for: what is done twice, or left out, shows."""

from connserver import Context, Object, Plugin, Refused, Reply, Result

plugin = Plugin("simulation", version="1.0.0")

GOLD = 100


@plugin.kind("purse")
class Purse(Object):
    value: int = 0
    gold: int = GOLD
    rung: int = 0


@plugin.kind("clock", index=["running"])
class Clock(Object):
    running: bool = True
    ticks: int = 0


# --- a counter ---


@plugin.method("sim.add")
def add(ctx: Context, me: Purse) -> dict[str, object]:
    me.value += 1
    return {"value": me.value}


@plugin.method("sim.get")
def get(ctx: Context, me: Purse) -> dict[str, object]:
    return {"value": me.value}


# --- gold, mostly to another group; an odd sum is refused and comes back ---


@plugin.method("sim.give")
def give(ctx: Context, me: Purse, to: str, gold: int) -> Reply:
    me.gold -= gold
    return ctx.call(ctx.objects.user(to), take, gold=gold, then=given)


@plugin.internal
def take(ctx: Context, me: Purse, gold: int) -> dict[str, object]:
    if gold % 2:
        raise Refused("sim.odd")
    me.gold += gold
    ctx.tell(me, "sim.took", gold=gold)
    return {"gold": gold}


@plugin.internal
def given(ctx: Context, me: Purse, result: Result, gold: int) -> Result:
    if not result.ok:
        me.gold += gold
    return result


# --- a continuation that fails: it is parked, never dropped ---


@plugin.method("sim.spill")
def spill(ctx: Context, me: Purse, to: str) -> Reply:
    return ctx.call(ctx.objects.user(to), take, gold=0, then=slip)


@plugin.internal
def slip(ctx: Context, me: Purse, result: Result) -> None:
    raise RuntimeError("slipped")


# --- timers and ticks ---


@plugin.method("sim.bell")
def bell(ctx: Context, me: Purse, item: int) -> None:
    ctx.timer(f"bell-{item}").set(ring, after_s=0.4, item=item)


@plugin.internal
def ring(ctx: Context, me: Purse, item: int) -> None:
    me.rung += 1
    ctx.tell(me, "sim.rang", item=item)


@plugin.method("sim.wind")
def wind(ctx: Context, me: Purse) -> None:
    ctx.objects.create(Clock, near=me)


@plugin.every(hz=2, kind=Clock, where={"running": True})
def tick(ctx: Context) -> None:
    for clock in ctx.objects.where(Clock, running=True):
        clock.ticks += 1
