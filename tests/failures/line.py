"""One connection of a test that says one thing after the other, on a plain socket."""

from __future__ import annotations

import socket

from tests.failures.wire import JSON, Cutter, Fields, frame

ANSWER_S = 10.0


class Line:
    """A connection. `events`: what came besides answers, in order."""

    def __init__(self, address: tuple[str, int], encoding: str = JSON) -> None:
        self.events: list[Fields] = []
        self._socket = socket.create_connection(address, timeout=ANSWER_S)
        self._encoding = encoding
        self._cutter = Cutter(encoding)
        self._answers: list[Fields] = []

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def say(self, *messages: Fields) -> None:
        """Without waiting for an answer."""
        self._socket.sendall(b"".join(frame(self._encoding, message) for message in messages))

    def hear(self) -> Fields:
        """The next answer; OSError where none comes in time."""
        while not self._answers:
            data = self._socket.recv(65_536)
            if not data:
                raise ConnectionError("closed by the gateway")
            for heard in self._cutter.feed(data):
                (self._answers if "status" in heard else self.events).append(heard)
        return self._answers.pop(0)

    def heard(self, seconds: float) -> list[Fields]:
        """The answers that came until one did, or until this long has passed."""
        self._socket.settimeout(seconds)
        try:
            self._answers.insert(0, self.hear())
        except TimeoutError:
            pass
        finally:
            self._socket.settimeout(ANSWER_S)
        found, self._answers = self._answers, []
        return found

    def ask(self, message: Fields) -> Fields:
        """The answer to this; one to an earlier request that was asked again is passed over."""
        self.say(message)
        while True:
            answer = self.hear()
            if answer["msg"] == message["msg"] and answer.get("id") == message.get("id"):
                return answer

    def close(self) -> None:
        self._socket.close()
