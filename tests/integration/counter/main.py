"""What clients are tried with: each call leaves a trace that shows whether it ran once."""

from connserver import Context, Object, Plugin, Refused

plugin = Plugin("counter", version="1.0.0")


@plugin.kind("counter")
class Counter(Object):
    value: int = 0


@plugin.method("counter.add")
def add(ctx: Context, me: Counter) -> dict[str, int]:
    me.value += 1
    return {"value": me.value}


@plugin.method("counter.get")
def get(ctx: Context, me: Counter) -> dict[str, int]:
    return {"value": me.value}


@plugin.method("counter.refuse")
def refuse(ctx: Context, me: Counter) -> None:
    me.value += 1000
    raise Refused("counter.no", "this is always refused")


@plugin.method("counter.tell")
def tell(ctx: Context, me: Counter, text: str) -> None:
    ctx.tell(me, "counter.told", text=text)


@plugin.method("counter.seldom", rate_hz=4)
def seldom(ctx: Context, me: Counter) -> dict[str, int]:
    me.value += 1
    return {"value": me.value}


@plugin.method("counter.enter")
def enter(ctx: Context, me: Counter, room: str) -> None:
    ctx.room(room).join(me)
