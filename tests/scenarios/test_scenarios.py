"""Text scenarios of the replication core: `command`, `----`, what must come out.

    pytest tests/scenarios             compare
    pytest tests/scenarios --rewrite   write the output into the files

Each block is one or more commands, a line of four dashes, the output, and an empty line. Commands are
the methods of `Script` below. Heartbeats and acks are left out of the output.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from connserver.ids import GroupId
from tests.simulation.stage import GROUP, Stage

FOLDER = Path(__file__).parent


class Script:
    """The words of a scenario."""

    def __init__(self) -> None:
        self.stage = Stage()

    def run(self, command: str) -> list[str]:
        """One command line; what it brought about."""
        word, *arguments = command.split()
        action: Callable[..., list[str] | None] = getattr(self, f"do_{word.replace('-', '_')}")
        self.stage.lines.clear()
        output = action(*arguments)
        return output if output is not None else list(self.stage.lines)

    def do_pass(self, milliseconds: str) -> None:
        """Time passes."""
        self.stage.run(int(milliseconds))

    def do_form(self) -> list[str]:
        """The first start, without its output."""
        self.stage.form()
        return [f"primary {self.stage.primary}"]

    def do_deliver(self) -> None:
        """What flies arrives; no time passes."""
        self.stage.deliver()

    def do_nodes(self, *names: str) -> None:
        """Another cluster than that of n1, n2 and n3; the first command."""
        self.stage = Stage(names=names)

    def do_attach(self, name: str, after: str = "0", state: str = "") -> None:
        """A worker is ready."""
        self.stage.attach(name, int(after), int(state) if state else None)
        self.stage.deliver()

    def do_detach(self, name: str, *last_words: str) -> None:
        """The worker died."""
        words = tuple(word.encode() for word in last_words)
        self.stage.sets[name].detach(GROUP, self.stage.now, words)
        self._turn(name)

    def do_submit(self, name: str, *payloads: str) -> None:
        """The worker executed."""
        self.stage.submit(name, *payloads)
        self.stage.deliver()

    def do_barrier(self, name: str, token: str) -> None:
        """The worker wants to let a read go."""
        self.stage.barrier(name, int(token))
        self.stage.deliver()

    def do_archived(self, name: str, op: str) -> None:
        """The archive has got this far."""
        self.stage.sets[name].archived(GroupId(0), int(op), self.stage.now)
        self._turn(name)

    def do_resign(self, name: str, target: str = "") -> list[str] | None:
        """Planned handoff."""
        reason = self.stage.sets[name].resign(GROUP, target or None, self.stage.now)
        if reason:
            return [reason]
        self._turn(name)
        return None

    def do_drained(self, name: str) -> None:
        """The worker told DRAINING is done."""
        self.stage.sets[name].drained(GROUP, self.stage.grant(name), self.stage.now)
        self._turn(name)

    def do_disk_full(self, name: str, full: str) -> None:
        """The disk is full, or has room again."""
        self.stage.sets[name].set_disk_full(full == "yes", self.stage.now)
        self._turn(name)

    def do_crash(self, *names: str) -> None:
        """SIGKILL."""
        for name in names:
            self.stage.crash(name)

    def do_restart(self, *names: str) -> None:
        """Start from what is on disk."""
        for name in names:
            self.stage.restart(name)

    def do_wipe(self, name: str) -> None:
        """A blank disk."""
        self.stage.wipe(name)

    def do_damage(self, name: str) -> None:
        """A bit flips in the last record on the disk of a node that is down."""
        self.stage.damage(name)

    def do_begin_era(self, name: str, base: str = "", era: str = "0", view: str = "0") -> list[str] | None:
        """The operator's `recover`; without a base from the log that is there."""
        reason = self.stage.begin_era(
            name, int(base) if base not in ("", "-") else None, (int(era), int(view))
        )
        if reason:
            return [reason]
        self.stage.deliver()
        return None

    def do_problem(self, *names: str) -> list[str]:
        """What these nodes tell the operator."""
        return [f"{name}: {self.stage.problem(name) or '-'}" for name in names]

    def do_isolate(self, name: str) -> None:
        """No link works."""
        self.stage.isolate(name)

    def do_cut(self, source: str, target: str) -> None:
        """One way."""
        self.stage.cut(source, target)

    def do_heal(self) -> None:
        """All links work."""
        self.stage.heal()

    def do_hold_disk(self, name: str) -> None:
        """Writes take their time."""
        self.stage.hold_disk(name)

    def do_write(self, name: str) -> None:
        """Writes are done."""
        self.stage.write(name)
        self.stage.deliver()

    def do_log(self, name: str) -> list[str]:
        """The log of one node, and where it ends."""
        replica = self.stage.replica(name)
        entries = " ".join(
            f"{op}:{replica.log.entry(op).payload.decode()}/v{replica.log.entry(op).view}"
            for op in range(replica.log.base + 1, replica.log.head + 1)
        )
        return [f"base {replica.log.base} commit {replica.commit} [{entries}]"]

    def do_status(self) -> list[str]:
        """One line per node."""
        lines = []
        for name in self.stage.names:
            if name not in self.stage.sets:
                lines.append(f"{name} down")
                continue
            s = self.stage.replica(name).describe()
            leads = " leads" if self.stage.replica(name).leads else ""
            lines.append(
                f"{name} {s.status.value} era {s.era} view {s.view} log_view {s.log_view} "
                f"head {s.head} commit {s.commit}{leads}{' granted' if s.grant else ''}"
            )
        return lines

    def _turn(self, name: str) -> None:
        self.stage._perform(name)
        self.stage.deliver()


def play(text: str) -> str:
    """The scenario with the output that it gives now."""
    script = Script()
    out: list[str] = []
    for block in text.strip().split("\n\n"):
        head = block.partition("\n----")[0]
        commands = [line for line in head.split("\n") if line and not line.startswith("#")]
        if not commands:
            out.append(block)
            continue
        output = [line for command in commands for line in script.run(command)]
        out.append("\n".join([head, "----", *(output or ["ok"])]))
    return "\n\n".join(out) + "\n"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_scenario(path: Path, request: pytest.FixtureRequest) -> None:
    """The output is what the file says."""
    text = path.read_text()
    played = play(text)
    if request.config.getoption("--rewrite", default=False):
        path.write_text(played)
    assert played == path.read_text(), f"pytest {path.parent.name} --rewrite, then read the diff"


def test_a_wrong_expectation_is_noticed() -> None:
    """The comparison compares."""
    assert play("form\n----\nprimary n2\n") == "form\n----\nprimary n1\n"
