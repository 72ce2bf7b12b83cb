"""What the load asks for: nothing here may be done twice, left out or done in another order unseen."""

from connserver import Context, Object, Plugin, Ref, Reply

plugin = Plugin("witness", version="1.0.0")

PAGE_ITEMS = 128


@plugin.kind("tally")
class Tally(Object):
    value: int = 0
    length: int = 0
    given: int = 0
    taken: int = 0
    rung: int = 0


@plugin.kind("page", index=["owner"])
class Page(Object):
    owner: Ref[Object]
    number: int
    items: list[int] = []  # noqa: RUF012


# --- a counter ---


@plugin.method("count.add")
def add(ctx: Context, me: Tally) -> dict[str, object]:
    me.value += 1
    return {"value": me.value}


@plugin.method("count.get")
def get(ctx: Context, me: Tally) -> dict[str, object]:
    return {"value": me.value}


# --- a list, in pages, so that an image stays small ---


@plugin.method("list.append")
def append(ctx: Context, me: Tally, item: int) -> dict[str, object]:
    number = me.length // PAGE_ITEMS
    if me.length % PAGE_ITEMS == 0:
        ctx.objects.create(Page, near=me, owner=me, number=number, items=[item])
    else:
        page(ctx, me, number).items.append(item)
    me.length += 1
    return {"value": me.length}


@plugin.method("list.page")
def show(ctx: Context, me: Tally, index: int) -> dict[str, object]:
    found = page(ctx, me, index).items if index * PAGE_ITEMS < me.length else []
    return {"value": me.length, "items": " ".join(map(str, found))}


def page(ctx: Context, me: Tally, number: int) -> Page:
    return next(found for found in ctx.objects.where(Page, owner=me) if found.number == number)


# --- from one user to another, mostly in another partition group ---


@plugin.method("gift.give")
def give(ctx: Context, me: Tally, to: str) -> Reply:
    me.given += 1
    return ctx.call(ctx.objects.user(to), take)


@plugin.internal
def take(ctx: Context, me: Tally) -> dict[str, object]:
    me.taken += 1
    return {"value": me.taken}


@plugin.method("gift.show")
def balance(ctx: Context, me: Tally) -> dict[str, object]:
    return {"given": me.given, "taken": me.taken}


# --- timers ---


@plugin.method("bell.set")
def set_bell(ctx: Context, me: Tally, item: int, after_s: float = 0.3) -> None:
    ctx.timer(f"bell-{item}").set(ring, after_s=after_s)


@plugin.internal
def ring(ctx: Context, me: Tally) -> None:
    me.rung += 1


@plugin.method("bell.count")
def rung(ctx: Context, me: Tally) -> dict[str, object]:
    return {"value": me.rung}
