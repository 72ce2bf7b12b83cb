"""The one way in which a client's question is answered, wherever the answer was made.

Guards: an answer is kept before (in the same entry as) it is sent, so that asking again gives the
same; it goes to where the client last asked from; a gateway drops the second copy of an answer.
"""

from __future__ import annotations

from connserver.errors import ClientError
from connserver.messages import OutputKind
from connserver.model import Message
from partition.ledger import Fields
from partition.post import Post
from partition.questions import Question
from partition.sessions import RequestKey, Session, Sessions
from partition.turn import TurnBuilder

_REPLY = OutputKind.REPLY  # looked up once: members of an Enum are slow to reach in Python 3.11

Asked = tuple[int, int, int]
"""(gateway boot, connection, sequence) of the newest copy of a request."""


class Answers:
    """Answers questions and remembers where repeated ones were asked from."""

    def __init__(self, sessions: Sessions, post: Post, turn: TurnBuilder) -> None:
        self._sessions = sessions
        self._post = post
        self._turn = turn
        self._asked_again: dict[tuple[int, RequestKey], Asked] = {}
        post.handle("answered", self._answered)

    def repeated(self, session: Session, key: RequestKey, asked: Asked) -> None:
        """The same request once more: give the kept reply, or send it here when it is made."""
        body = self._sessions.reply_to(session, key)
        if body is None:
            self._asked_again[session.oid, key] = asked
        else:
            self._send(asked, body)

    def pending(self, question: Question) -> None:
        """The answer comes later: until then the request counts as in progress, durably."""
        session = self._sessions.get(question.session)
        if session is not None:
            self._sessions.remember(session, question.key, None, durable=True)

    def give(self, question: Question, fields: Message, error: ClientError | None, *, durable: bool) -> None:
        """Answer a question of a session of this group."""
        body = question.refusal(error) if error is not None else question.reply(fields)
        session = self._sessions.get(question.session)
        if session is not None:
            # what was noted as in progress must be noted as answered, even if it changed nothing
            durable = durable or question.key in session.slots
            self._sessions.remember(session, question.key, body, durable=durable)
        self._send(self._place(question), body)

    def from_elsewhere(
        self, question: Question, fields: Message, error: ClientError | None, *, local: bool
    ) -> None:
        """Answer a question that another session's worker passed on, and let it be kept there."""
        if local:
            self.give(question, fields, error, durable=True)
            return
        body = question.refusal(error) if error is not None else question.reply(fields)
        self._send((question.gateway, question.connection, question.sequence), body)
        self._post.send(question.session, "answered", {"question": question.fields(), "body": body})

    def _answered(self, fields: Fields, local: bool) -> None:
        question = Question.of(fields["question"])
        session = self._sessions.get(question.session)
        if session is not None:
            self._sessions.remember(session, question.key, fields["body"], durable=True)
        self._send(self._place(question), fields["body"])

    def _place(self, question: Question) -> Asked:
        asked = (question.gateway, question.connection, question.sequence)
        if not self._asked_again:
            return asked
        return self._asked_again.pop((question.session, question.key), asked)

    def _send(self, asked: Asked, body: bytes) -> None:
        gateway, connection, sequence = asked
        self._turn.output(gateway, [connection], _REPLY, body, sequence)
