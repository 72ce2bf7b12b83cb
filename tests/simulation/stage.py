"""Three nodes moved by hand: for directed traces, text scenarios and unit tests of the core.

Nothing happens by itself. `run` lets time pass and delivers what is not held or cut; everything else
is one step that the test names. Disks are the shipped WAL bytes; a write is done at once unless the
node's disk is held.
"""

from __future__ import annotations

from collections import defaultdict
from random import Random

from connserver.ids import GroupId
from gossip.protocol import (
    NO_GRANT,
    Alert,
    BarrierPassed,
    Committed,
    Deliver,
    Effect,
    Entry,
    Grant,
    Message,
    Publish,
    Rebase,
    Refused,
    Role,
    SendTo,
    Status,
    Write,
)
from gossip.replica import Replica
from gossip.replica_set import ReplicaSet
from gossip.replica_state import Timing
from gossip.wal import _HEADER, _KINDS, encode_record, lose_everything, restore, segment_header, survivors

GROUP = GroupId(0)
NAMES = ("n1", "n2", "n3")
Bundle = tuple[int, tuple[Message, ...]]
QUIET = ("Prepare", "PrepareOk")
MOST_BUNDLES = 10_000
"""In one moment: far more than any exchange takes."""


class Stage:
    """Nodes n1, n2, n3 (or n1 alone) with one group; n1 is primary of view 0."""

    def __init__(self, timing: Timing | None = None, names: tuple[str, ...] = NAMES) -> None:
        self.timing = timing or Timing(tail_entries=4)
        self.names = names
        self.now = 100.0
        self.random = Random(7)
        self.sets: dict[str, ReplicaSet] = {}
        self.disks: dict[str, bytes] = dict.fromkeys(names, b"")
        self.sequences = dict.fromkeys(names, 1)
        self.unwritten: dict[str, list[tuple[int, bytes]]] = {name: [] for name in self.names}
        self.slow_disks: dict[str, bool] = dict.fromkeys(names, False)
        self.flying: list[tuple[str, str, Bundle]] = []
        self.cuts: dict[tuple[str, str], bool] = {}
        self.held: dict[tuple[str, str], list[Bundle]] = {}
        self.effects: dict[str, list[Effect]] = defaultdict(list)
        self.frozen: list[str] = []
        self.synced: dict[str, set[type]] = {name: set() for name in names}  # kinds of records
        self.truth: dict[int, Entry] = {}
        self.lives = dict.fromkeys(names, 0)
        self.lines: list[str] = []
        for name in self.names:
            self.restart(name)

    # --- nodes ---

    def restart(self, name: str, disorderly: bool = False) -> None:
        """Start a node from its disk; `disorderly`: the machine went down and written was not synced."""
        data = self.disks[name]
        restored = restore([(1, data)] if data else [])
        if disorderly:
            lose_everything(restored.node)
        if restored.damage or disorderly or restored.last_good_bytes == 0:
            self.sequences[name] = 1
            records = survivors(restored.node)
            self.disks[name] = segment_header(1) + b"".join(self._encode(name, r) for r in records)
        else:
            self.disks[name] = data[: restored.last_good_bytes]
            self.sequences[name] = restored.next_sequence
        self.lives[name] += 1
        random = Random(self.lives[name] * 10 + int(name[1]))
        fresh = ReplicaSet(name, restored.node, self.timing, random, self.now)
        fresh.add_group(GROUP, self.names, self.now)
        self.sets[name] = fresh
        self._perform(name)

    def crash(self, name: str, torn_at: type | None = None) -> None:
        """SIGKILL: what is not written is lost; with `torn_at` only from that kind of record on."""
        for _, data in self.unwritten[name]:
            if torn_at is not None:
                kept, found = before(data, torn_at)
                self.disks[name] += kept
                if found:
                    break
        self.unwritten[name].clear()
        self.slow_disks[name] = False
        del self.sets[name]

    def leave_for(self, name: str, view: int) -> None:
        """Make a replica leave its view, as if it had counted votes."""
        self.replica(name).now = self.now
        self.replica(name).leave_for(view)
        self._perform(name)

    def wipe(self, name: str) -> None:
        """A blank disk; the node must be down."""
        assert name not in self.sets
        self.disks[name] = b""

    def damage(self, name: str) -> None:
        """A bit flips in the last record of a disk; the node must be down."""
        assert name not in self.sets
        data = bytearray(self.disks[name])
        data[-1] ^= 1
        self.disks[name] = bytes(data)

    def form(self) -> None:
        """The first start, up to a primary in view 0."""
        self.run(600)
        assert self.replica("n1").leads, self.replica("n1").describe()

    def replica(self, name: str) -> Replica:
        """The core on this node."""
        return self.sets[name].replicas[GROUP]

    @property
    def primary(self) -> str:
        """The node that leads in the highest view."""
        leading = [(self.replica(name).view, name) for name in self.sets if self.replica(name).leads]
        return max(leading)[1] if leading else ""

    # --- time and messages ---

    def run(self, milliseconds: int) -> None:
        """Let time pass, everywhere at the same rate."""
        end = self.now + milliseconds / 1000
        while self.now < end - 1e-9:
            self.now += self.timing.tick_ms / 1000
            for name in self.names:
                if name in self.sets and name not in self.frozen:
                    self.sets[name].tick(self.now)
                    self._perform(name)
            self.deliver()

    def deliver(self) -> None:
        """Deliver all that flies, and what that makes fly."""
        for _ in range(MOST_BUNDLES):
            if not self.flying:
                return
            source, target, (incarnation, messages) = self.flying.pop(0)
            self.receive(source, target, incarnation, messages)
        raise AssertionError("they answer each other for ever")

    def receive(self, source: str, target: str, incarnation: int, messages: tuple[Message, ...]) -> None:
        """One bundle arrives."""
        if target not in self.sets:
            return
        for message in messages:
            if type(message).__name__ not in QUIET:
                self.lines.append(f"{source} > {target}: {brief(message)}")
        self.sets[target].receive(source, incarnation, messages, self.now)
        self._perform(target)

    def cut(self, source: str, target: str) -> None:
        """Nothing passes this way any more."""
        self.cuts[(source, target)] = True

    def isolate(self, name: str) -> None:
        """Nothing passes to or from this node."""
        for other in self.names:
            if other != name:
                self.cut(name, other)
                self.cut(other, name)

    def heal(self) -> None:
        """All links pass again."""
        self.cuts.clear()

    def hold(self, source: str, target: str) -> None:
        """Keep what passes this way until it is released: a slow network."""
        self.held.setdefault((source, target), [])

    def release(self, source: str, target: str, keep: int = 0) -> None:
        """Let the held bundles arrive now, in order."""
        for incarnation, messages in self.held.pop((source, target), [])[keep:]:
            self.receive(source, target, incarnation, messages)
        self.deliver()

    def hold_disk(self, name: str) -> None:
        """Writes of this node are under way until `write`."""
        self.slow_disks[name] = True

    def write(self, name: str) -> None:
        """All writes of this node are done."""
        self.slow_disks[name] = False
        waiting, self.unwritten[name] = self.unwritten[name], []
        for upto, data in waiting:
            self.disks[name] += data
            self.sets[name].written(upto, self.now)
            self._perform(name)

    # --- the operator ---

    def begin_era(self, name: str, base: int | None = None, above: tuple[int, int] = (0, 0)) -> str:
        """`recover` on this node; why not, or an empty string. What it gives up is forgotten here too."""
        reason = self.sets[name].begin_era(GROUP, self.now, base, above)
        if not reason:
            log = self.replica(name).log
            self.truth = {
                op: entry
                for op, entry in self.truth.items()
                if op <= log.base or (op <= log.head and log.entry(op) == entry)
            }
            self._perform(name)
        return reason

    def problem(self, name: str) -> str:
        """What `status` on this node says."""
        return self.sets[name].status(GROUP).problem

    # --- the worker's side ---

    def attach(self, name: str, after: int = 0, state: int | None = None) -> None:
        """A worker is ready."""
        self.sets[name].attach(GROUP, after, self.now, state)
        self._perform(name)

    def grant(self, name: str) -> Grant:
        """The grant that the core considers current."""
        return self.replica(name).grant

    def submit(self, name: str, *payloads: str, grant: Grant = NO_GRANT, first_op: int = 0) -> None:
        """A SUBMIT with the current grant right behind the head, unless told otherwise."""
        replica = self.replica(name)
        first = first_op or replica.log.head + 1
        data = tuple(payload.encode() for payload in payloads)
        self.sets[name].submit(GROUP, grant or replica.grant, first, data, self.now)
        self._perform(name)

    def barrier(self, name: str, token: int, grant: Grant = NO_GRANT) -> None:
        """Ask for a read barrier."""
        self.sets[name].request_barrier(GROUP, grant or self.grant(name), token, self.now)
        self._perform(name)

    def payloads(self, name: str) -> list[str]:
        """The log of a node above its base."""
        log = self.replica(name).log
        return [log.entry(op).payload.decode() for op in range(log.base + 1, log.head + 1)]

    def told(self, name: str, kind: type[Effect]) -> list[Effect]:
        """Effects of one kind that this node's shell was given."""
        return [effect for effect in self.effects[name] if isinstance(effect, kind)]

    # --- effects ---

    def _encode(self, name: str, record: object) -> bytes:
        data = encode_record(record, self.sequences[name])  # type: ignore[arg-type]
        self.sequences[name] += 1
        return data

    def _perform(self, name: str) -> None:
        node = self.sets[name]
        for effect in node.flush(self.now):
            match effect:
                case Write(records, upto, sync):
                    if sync:
                        self.synced[name].update(type(record) for record in records)
                    data = b"".join(self._encode(name, record) for record in records)
                    self.unwritten[name].append((upto, data))
                case Publish(messages):
                    for other in self.names:
                        if other != name:
                            self._fly(name, other, (node.incarnation, messages))
                case SendTo(other, messages):
                    self._fly(name, other, (node.incarnation, messages))
                case _:
                    self.effects[name].append(effect)
                    self.lines.append(f"{name}: {brief_effect(effect)}")
        node.check_invariants()
        self._check_commit(name)
        if self.unwritten[name] and not self.slow_disks[name]:
            self.write(name)

    def _fly(self, source: str, target: str, bundle: Bundle) -> None:
        if (source, target) in self.held:
            self.held[(source, target)].append(bundle)
        elif not self.cuts.get((source, target)):
            self.flying.append((source, target, bundle))

    def _check_commit(self, name: str) -> None:
        replica = self.replica(name)
        for op in range(replica.log.base + 1, replica.commit + 1):
            entry = replica.log.entry(op)
            known = self.truth.setdefault(op, entry)
            assert known == entry, f"{name} committed {entry} where {known} was committed before"

    def check_all_committed_is_there(self) -> None:
        """Nothing that was ever committed is missing from a replica that is NORMAL and caught up."""
        most = max(self.truth, default=0)
        for name in self.sets:
            replica = self.replica(name)
            if replica.status is Status.NORMAL:
                assert replica.commit >= most, f"{name} is at {replica.commit}, op {most} was committed"


def before(data: bytes, kind: type) -> tuple[bytes, bool]:
    """The records ahead of the last one of a kind, a few bytes of that one, and whether it was there."""
    number = {cls: number for number, cls in _KINDS.items()}[kind]
    at, found = 0, -1
    while at < len(data):
        length, _, _, _, this, _ = _HEADER.unpack_from(data, at)
        if this == number:
            found = at
        at += _HEADER.size + length
    return (data[: found + 5], True) if found >= 0 else (data, False)


def brief(message: Message) -> str:
    """A message in a scenario's output."""
    fields = message._asdict()
    for name in ("group", "era", "nonce", "placement", "seeded"):
        fields.pop(name, None)
    if "outline" in fields:
        fields["head"] = fields.pop("outline").head
    if "entries" in fields:
        fields["entries"] = "".join(f"{e.op}:{e.payload.decode()} " for e in fields["entries"]).strip() or "-"
    if "status" in fields:
        fields["status"] = fields["status"].value
    return f"{type(message).__name__} " + " ".join(f"{name}={value}" for name, value in fields.items())


def brief_effect(effect: Effect) -> str:
    """An effect in a scenario's output."""
    match effect:
        case Committed(_, op):
            return f"Committed {op}"
        case Deliver(_, entries):
            return "Deliver " + " ".join(f"{entry.op}:{entry.payload.decode()}" for entry in entries)
        case Role(_, grant, role, era, view):
            return f"Role {role.value} view={view} era={era}{' granted' if grant else ''}"
        case Refused(_, _, first_op, reason, head):
            return f"Refused {reason.value} first_op={first_op} head={head}"
        case BarrierPassed(_, _, token):
            return f"BarrierPassed {token}"
        case Rebase(_, op):
            return f"Rebase {op}"
        case Alert(_, text):
            return f"Alert {text}"
    return type(effect).__name__
