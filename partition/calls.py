"""`ctx.call` on both sides: the callee's run, and the `then` that waits for its result.

Guards: a continuation waits as an object until its result is there, runs in one entry with its own
removal, and one that raises is parked with its incident, never dropped. A missing target is an
ordinary result (`not_found`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from connserver.errors import ClientError
from connserver.ids import ObjectId, format_oid, partition_of
from connserver.model import Message
from connserver.plugin import Result
from partition.effects import Call, Caller, Outcome
from partition.ledger import Fields, Ledger
from partition.post import Post
from partition.questions import Question

CONTINUATION = "cs.call"


class Internal(Protocol):
    """Runs a plugin's internal method on an object of this group."""

    def internal(
        self,
        method: str,
        arguments: Message,
        *,
        me: int,
        caller: Caller,
        now: float,
        result: Result | None,
    ) -> Outcome: ...


class Finish(Protocol):
    """Applies an outcome's images and effects, and answers the question if there is one."""

    def __call__(self, outcome: Outcome, caller: Caller, question: Question | None) -> None: ...


@dataclass(slots=True)
class Calls:
    """Calls that left this group's objects, and calls that arrive at them."""

    ledger: Ledger
    post: Post
    internal: Internal
    finish: Finish
    clock: float = 0.0
    parked: int = 0

    def attach(self) -> None:
        """Take the deliveries that are about calls."""
        self.post.handle("call", self._called)
        self.post.handle("result", self._resulted)

    def load(self) -> None:
        """Count what is parked, for `status`."""
        self.parked = sum(1 for _, kept in self.ledger.of_kind(CONTINUATION) if kept.get("parked"))

    def make(self, call: Call, caller: Caller, question: Question | None) -> None:
        """Send a call; where somebody waits for its result, keep the continuation first."""
        waiting: dict[str, Any] | None = None
        oid = 0
        if call.then or call.deferred:
            waiting = {
                "origin": call.origin,
                "then": call.then,
                "arguments": call.arguments,
                "caller": caller_fields(caller),
                "question": question.fields() if question and call.deferred else None,
            }
            oid = self.ledger.allocate(partition_of(call.origin))
            self.ledger.write(oid, CONTINUATION, waiting)
        self.post.send(
            call.target,
            "call",
            {
                "target": call.target,
                "method": call.method,
                "arguments": call.arguments,
                "caller": caller_fields(caller),
                "continuation": oid,
                "waiting": waiting,
            },
        )

    def _called(self, fields: Fields, local: bool) -> None:
        caller = caller_of(fields["caller"])
        outcome = Outcome(error=error_of(fields.get("quarantined")))
        if outcome.error is None:
            outcome = self.internal.internal(
                fields["method"],
                fields["arguments"],
                me=fields["target"],
                caller=caller,
                now=self.clock,
                result=None,
            )
        self.finish(outcome, caller, None)
        oid = fields["continuation"]
        if not oid:
            return
        result: Fields = {"continuation": oid, "value": outcome.result, "error": None}
        if outcome.error is not None:
            result["error"] = outcome.error.fields()
        if local:
            result["waiting"] = fields["waiting"]
        self.post.send(oid, "result", result)

    def _resulted(self, fields: Fields, local: bool) -> None:
        oid = fields["continuation"]
        waiting = fields.get("waiting") or self._waiting(oid)
        if waiting is None:
            return
        error = error_of(fields["error"])
        caller = caller_of(waiting["caller"])
        question = Question.of(waiting["question"]) if waiting["question"] else None
        if not waiting["then"]:
            outcome = Outcome(result=fields["value"], error=error)
        elif fields.get("quarantined"):
            outcome = Outcome(error=error_of(fields["quarantined"]))
        else:
            outcome = self.internal.internal(
                waiting["then"],
                waiting["arguments"],
                me=waiting["origin"],
                caller=caller,
                now=self.clock,
                result=Result.of(fields["value"], error),
            )
        if outcome.error is not None and (outcome.unfinished or fields.get("quarantined")):
            self._park(oid, waiting, fields, outcome.error)
        else:
            self.ledger.delete(oid, CONTINUATION)
        self.finish(outcome, caller, question)

    def _park(self, oid: int, waiting: Fields, fields: Fields, error: ClientError) -> None:
        self.parked += 1
        kept = {name: waiting[name] for name in ("origin", "then", "arguments", "caller")}
        parked = {
            "incident": error.incident,
            "reason": error.reason,
            "value": fields["value"],
            "error": fields["error"],
        }
        self.ledger.write(oid, CONTINUATION, {**kept, "question": None, "parked": parked})

    def retry(self, oid: int) -> None:
        """Run a parked continuation again, by the operator's wish; ValueError if there is none."""
        waiting = self._waiting(oid)
        if waiting is None or not waiting.get("parked"):
            raise ValueError(f"no parked call has the id {format_oid(oid)}")
        self.parked -= 1
        parked = waiting["parked"]
        again = {"continuation": oid, "value": parked["value"], "error": parked["error"]}
        self._resulted(again, True)

    def describe_parked(self) -> list[dict[str, Any]]:
        """What is parked, for an operator, in the order of ids; times are not kept, incidents are."""
        return [
            {
                "call": format_oid(oid),
                "object": format_oid(kept["origin"]),
                "then": kept["then"],
                "user": kept["caller"]["name"],
                "incident": kept["parked"]["incident"] or "",
                "reason": kept["parked"].get("reason", ""),
            }
            for oid, kept in sorted(self.ledger.of_kind(CONTINUATION))
            if kept.get("parked")
        ]

    def _waiting(self, oid: int) -> Fields | None:
        return self.ledger.read(ObjectId(oid), CONTINUATION)


def caller_fields(caller: Caller) -> Fields:
    """A caller as it travels between groups."""
    roles = sorted(caller.roles)
    return {"user": caller.user, "session": caller.session, "name": caller.name, "roles": roles}


def caller_of(fields: Fields) -> Caller:
    """Read back what `caller_fields` wrote."""
    return Caller(
        user=fields["user"],
        session=fields["session"],
        name=fields["name"],
        roles=frozenset(fields["roles"]),
    )


def error_of(fields: Fields | None) -> ClientError | None:
    """Read back `ClientError.fields()`."""
    if fields is None:
        return None
    return ClientError(
        fields["error"],
        fields["reason"],
        code=fields.get("code"),
        retry_after_ms=fields.get("retry_after_ms"),
        incident=fields.get("incident"),
    )
