"""Chat: channels with topics and members, direct messages that wait in a mailbox, unique nicknames.

Works beside any game: user objects stay the game's own (`me: Object`), and what chat knows of a user
is in a Profile in the same partition. Lines go through the built-in rooms, so that all members see
them in one order and can catch up by `room.join` with `history` and by `session.resume`.
"""

import re
from typing import TypedDict

from connserver import Context, Object, Plugin, Ref, Refused, Reply, Result

plugin = Plugin("chat", version="1.0.0")

TEXT_CHARS = 2000
MAILBOX = 50
CHANNELS = 32
MEMBERS = 5000
IGNORED = 500
NICK = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,23}")


class Member(TypedDict):
    user: Ref[Object]
    name: str


class Mail(TypedDict):
    sender: str
    nick: str
    text: str
    at: float


@plugin.kind("chat-profile", unique=["user"])
class Profile(Object):
    user: Ref[Object]
    nick: str = ""
    channels: list[str] = []
    ignored: list[str] = []
    mail: list[Mail] = []
    sessions: int = 0


@plugin.kind("chat-channel")
class Channel(Object):
    topic: str = ""
    members: list[Member] = []


@plugin.kind("chat-nick")
class Nick(Object):
    owner: Ref[Object] | None = None


# --- channels ---


@plugin.method("chat.join", rate_hz=2)
def join(ctx: Context, me: Object, room: str) -> Reply:
    mine = profile_of(ctx, me)
    if room not in mine.channels and len(mine.channels) >= CHANNELS:
        raise Refused("chat.too_many", f"{CHANNELS} channels at once")
    return ctx.call(channel(ctx, room), enter, user=me, name=ctx.user_name, room=room, then=entered)


@plugin.internal(create=True)
def enter(ctx: Context, me: Channel, user: Ref[Object], name: str) -> dict[str, object]:
    if all(member["user"] != user for member in me.members):
        if len(me.members) >= MEMBERS:
            raise Refused("chat.full")
        me.members.append({"user": user, "name": name})
        ctx.room(me.named).send(event="joined", name=name)
    return {"room": me.named, "topic": me.topic, "members": names(me)}


@plugin.internal
def entered(ctx: Context, me: Object, result: Result, room: str) -> Result:
    if result.ok:
        mine = profile_of(ctx, me)
        if room not in mine.channels:
            mine.channels.append(room)
        ctx.room(room).join(me)
    return result


@plugin.method("chat.leave")
def leave(ctx: Context, me: Object, room: str) -> Reply:
    mine = profile_of(ctx, me)
    require_member(mine, room)
    mine.channels.remove(room)
    ctx.room(room).leave(me)
    return ctx.call(channel(ctx, room), leave_channel, user=me)


@plugin.internal(create=True)
def leave_channel(ctx: Context, me: Channel, user: Ref[Object]) -> None:
    for member in me.members:
        if member["user"] == user:
            me.members.remove(member)
            ctx.room(me.named).send(event="left", name=member["name"])
            return


@plugin.method("chat.say", rate_hz=10)
def say(ctx: Context, me: Object, room: str, text: str, volume: int = 5) -> None:
    mine = profile_of(ctx, me)
    require_member(mine, room)
    check_text(text)
    if not 0 <= volume <= 10:
        raise Refused("chat.bad_volume", "volume is from 0 to 10")
    ctx.room(room).send(event="said", text=text, volume=volume, nick=mine.nick or ctx.user_name)


@plugin.method("chat.who")
def who(ctx: Context, me: Object, room: str) -> Reply:
    require_member(profile_of(ctx, me), room)
    return ctx.call(channel(ctx, room), list_members)


@plugin.internal(create=True)
def list_members(ctx: Context, me: Channel) -> dict[str, object]:
    return {"topic": me.topic, "members": names(me)}


@plugin.method("chat.topic", rate_hz=1)
def topic(ctx: Context, me: Object, room: str, topic: str) -> Reply:
    require_member(profile_of(ctx, me), room)
    if len(topic) > 200:
        raise Refused("chat.too_long", "a topic has at most 200 characters")
    return ctx.call(channel(ctx, room), set_topic, topic=topic)


@plugin.internal(create=True)
def set_topic(ctx: Context, me: Channel, topic: str) -> None:
    me.topic = topic
    ctx.room(me.named).send(event="topic", topic=topic, name=ctx.user_name)


# --- direct messages ---


@plugin.method("chat.tell", rate_hz=5)
def tell(ctx: Context, me: Object, to: Ref[Object], text: str) -> Reply:
    check_text(text)
    nick = profile_of(ctx, me).nick or ctx.user_name
    return ctx.call(to, deliver, sender=ctx.user_name, nick=nick, text=text)


@plugin.internal
def deliver(ctx: Context, me: Object, sender: str, nick: str, text: str) -> dict[str, object]:
    mine = profile_of(ctx, me)
    if sender in mine.ignored:
        # the sender is not told, and does not learn whether the other is there
        return {"delivered": "accepted"}
    if mine.sessions:
        ctx.tell(me, "chat.told", sender=sender, nick=nick, text=text, at=ctx.now)
        return {"delivered": "accepted"}
    if len(mine.mail) >= MAILBOX:
        raise Refused("chat.mailbox_full")
    mine.mail.append({"sender": sender, "nick": nick, "text": text, "at": ctx.now})
    return {"delivered": "accepted"}


@plugin.method("chat.ignore")
def ignore(ctx: Context, me: Object, user: str, on: bool = True) -> None:
    mine = profile_of(ctx, me)
    if not on:
        if user in mine.ignored:
            mine.ignored.remove(user)
    elif user not in mine.ignored:
        if len(mine.ignored) >= IGNORED:
            raise Refused("chat.too_many", f"{IGNORED} users at most")
        mine.ignored.append(user)


# --- nicknames ---


@plugin.method("chat.nick", rate_hz=1)
def nick(ctx: Context, me: Object, nick: str) -> Reply:
    if not NICK.fullmatch(nick):
        raise Refused("chat.bad_nick", "at most 24 letters, digits, '_' and '-', a letter first")
    return ctx.call(nick_of(ctx, nick), claim, user=me, nick=nick, then=claimed)


@plugin.internal(create=True)
def claim(ctx: Context, me: Nick, user: Ref[Object]) -> None:
    if me.owner not in (None, user):
        raise Refused("chat.nick_taken")
    me.owner = user


@plugin.internal
def claimed(ctx: Context, me: Object, result: Result, nick: str) -> Result:
    if result.ok:
        mine = profile_of(ctx, me)
        if mine.nick.lower() not in ("", nick.lower()):
            ctx.call(nick_of(ctx, mine.nick), release, user=me)
        mine.nick = nick
    return result


@plugin.internal
def release(ctx: Context, me: Nick, user: Ref[Object]) -> None:
    if me.owner == user:
        ctx.objects.delete(me)


# --- coming and going ---


@plugin.on_join
def arrived(ctx: Context, me: Object) -> None:
    mine = profile_of(ctx, me)
    mine.sessions += 1
    for room in mine.channels:
        ctx.room(room).join(me)
    for mail in mine.mail:
        ctx.tell(me, "chat.told", **mail)
    mine.mail.clear()


@plugin.on_leave
def logged_out(ctx: Context, me: Object) -> None:
    gone(ctx, me)


@plugin.on_expire
def expired(ctx: Context, me: Object) -> None:
    gone(ctx, me)


def gone(ctx: Context, me: Object) -> None:
    mine = profile_of(ctx, me)
    mine.sessions = max(0, mine.sessions - 1)
    if mine.sessions == 0:
        for room in mine.channels:
            ctx.call(channel(ctx, room), leave_channel, user=me)
        mine.channels.clear()


# --- shared ---


def profile_of(ctx: Context, me: Object) -> Profile:
    found = ctx.objects.where(Profile, user=me)
    return found[0] if found else ctx.objects.create(Profile, near=me, user=me)


def channel(ctx: Context, room: str) -> Ref[Channel]:
    if not 0 < len(room) <= 64:
        raise Refused("chat.bad_room", "a channel's name has 1 to 64 characters")
    return ctx.objects.named(Channel, room)


def nick_of(ctx: Context, nick: str) -> Ref[Nick]:
    return ctx.objects.named(Nick, nick.lower())


def names(me: Channel) -> list[str]:
    return sorted(member["name"] for member in me.members)


def require_member(mine: Profile, room: str) -> None:
    if room not in mine.channels:
        raise Refused("chat.not_a_member", "chat.join the channel first")


def check_text(text: str) -> None:
    if not text.strip() or len(text) > TEXT_CHARS:
        raise Refused("chat.bad_text", f"1 to {TEXT_CHARS} characters are sent")
