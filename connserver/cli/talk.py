"""`cs-cluster send` and `client`: a client's side of protocol 1, at the terminal."""

from __future__ import annotations

import json
import os
import select
import shlex
import sys
import time
from typing import TYPE_CHECKING, Final

import click

from connserver.cli.find import load
from connserver.cli.output import json_option, print_json
from connserver.errors import ClusterError

if TYPE_CHECKING:
    from connserver.client.blocking import Client, Received
    from connserver.encodings import Encoding
    from connserver.model import Message, Value

REPLY_S: Final = 10.0
"""For a reply to come: the longest that a request may take on its way."""
LAST_REPLIES_S: Final = 5.0
"""For the gateway to answer and close after our end of input."""
LINE_BYTES: Final = 1 << 20
"""Longest line that is taken from the terminal or a pipe."""

gateway_option = click.option(
    "--gateway", metavar="HOST:PORT", help="This one; else the first of this host that answers."
)


@click.command("send")
@click.argument("message", nargs=-1, required=True)
@gateway_option
@click.option(
    "--wait", type=float, default=0.0, metavar="SECONDS", help="Print events for so long after the reply."
)
@json_option
@click.pass_context
def send_command(
    context: click.Context, message: tuple[str, ...], gateway: str | None, wait: float, as_json: bool
) -> int:
    """Send one message to a gateway, in the encoding it is written in, and print the reply.

    XML, JSON, or classic, whose fields may be arguments of their own. Exit status 1 for an error
    reply.

    \b
    Examples:
      cs-cluster send '{"msg":"ping","text":"hi"}'
      cs-cluster send '<msg method="chat.join" room="lobby"/>' --wait 10
      cs-cluster send msg:chat.say room:lobby text:hi
    """
    from connserver.client.blocking import encoding_of

    text = "\n".join(message)
    with connect(context, gateway, encoding_of(text)) as client:
        client.send_raw(text.encode())
        reply, events = client.reply(REPLY_S)
        for received in [*events, reply]:
            show(received, as_json=as_json)
        until = time.monotonic() + wait
        while (event := client.receive(until - time.monotonic())) is not None:
            show(event, as_json=as_json)
    return int(reply.failed)


def connect(context: click.Context, gateway: str | None, encoding: Encoding) -> Client:
    """A connection to the gateway that was named, or to the first that takes one."""
    from connserver.client.blocking import Client
    from connserver.config import Endpoint

    if gateway is not None:
        try:
            endpoints = [Endpoint.parse(gateway)]
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--gateway") from None
    else:
        config = load(context)
        nodes = [*config.host_nodes, *(node for node in config.nodes if node not in config.host_nodes)]
        endpoints = [endpoint for node in nodes for endpoint in node.gateways]
    failure = ClusterError("no node in the configuration has a gateway; give one with --gateway HOST:PORT")
    for endpoint in endpoints:
        try:
            return Client(endpoint.host, endpoint.port, encoding)
        except ClusterError as error:
            failure = error
    raise failure


def show(received: Received, *, as_json: bool, mark: str = "") -> None:
    """Print a message as it came, or as JSON. Nothing in it reaches the terminal as a command to it."""
    if as_json:
        print_json(received.message, pretty=False)
    else:
        text = received.raw.decode("utf-8", "replace").rstrip("\n")
        click.echo(mark + "".join(char if char.isprintable() or char == "\n" else "�" for char in text))


@click.command("client")
@gateway_option
@click.option(
    "--encoding",
    type=click.Choice(["json", "xml", "classic"]),
    default="json",
    show_default=True,
    help="What this connection speaks.",
)
@json_option
@click.pass_context
def client_command(context: click.Context, gateway: str | None, encoding: str, as_json: bool) -> int:
    """A client at the terminal: a line is a message, and what comes is printed.

    A line is `method field=value …`, or a whole message in the encoding of the connection (in a
    classic one \\n stands between the fields). ^D ends it.

    \b
    Examples:
      cs-cluster client
      cs-cluster client --encoding classic
      echo 'ping text=hi' | cs-cluster client
    """
    from connserver.encodings import Encoding

    chosen = Encoding[encoding.upper()]
    with connect(context, gateway, chosen) as client:
        return Terminal(client, as_json=as_json).run()


class Terminal:
    """Lines from standard input one way, messages the other."""

    def __init__(self, client: Client, *, as_json: bool) -> None:
        self._client = client
        self._as_json = as_json
        self._typed = b""
        self._failed = False

    def run(self) -> int:
        """Until the end of input or of the connection; 1 if there was an error reply."""
        if sys.stdin.isatty():
            click.echo("Type `method field=value …`, such as: ping text=hi", err=True)
        while True:
            while self._client.buffered:
                self._take(0)
            readable, _, _ = select.select([sys.stdin.fileno(), self._client], [], [])
            if self._client in readable and not self._take(0.05) and self._client.closed:
                click.echo("the gateway has closed the connection", err=True)
                return 1
            if sys.stdin.fileno() in readable and not self._read_lines():
                return self._finish()

    def _read_lines(self) -> bool:
        data = os.read(sys.stdin.fileno(), 65_536)
        *lines, self._typed = (self._typed + data).split(b"\n")
        if not data and self._typed:
            lines.append(self._typed)
        if len(self._typed) > LINE_BYTES:
            raise ClusterError(f"a line of more than {LINE_BYTES} bytes is no message")
        for line in lines:
            text = line.decode("utf-8", "replace").strip()
            if text:
                self._say(text)
        return bool(data)

    def _say(self, text: str) -> None:
        from connserver.client.blocking import encoding_of
        from connserver.encodings import Encoding

        try:
            if text[0] not in "<{" and not text.startswith("msg:"):
                self._client.send(short_form(text, typed=self._client.encoding is Encoding.JSON))
                return
        except ValueError as error:
            click.echo(f"not sent: {error}", err=True)
            return
        if encoding_of(text) is not self._client.encoding:
            spoken = self._client.encoding.name.lower()
            other = encoding_of(text).name.lower()
            click.echo(
                f"not sent: this connection speaks {spoken}; for this, start with --encoding {other}",
                err=True,
            )
            return
        self._client.send_raw(
            text.replace("\\n", "\n").encode() if text.startswith("msg:") else text.encode()
        )

    def _take(self, timeout_s: float) -> bool:
        received = self._client.receive(max(timeout_s, 0.001))
        if received is None:
            return False
        self._failed = self._failed or received.failed
        show(received, as_json=self._as_json, mark="← " if sys.stdout.isatty() else "")
        return True

    def _finish(self) -> int:
        self._client.finish()
        until = time.monotonic() + LAST_REPLIES_S
        while not self._client.closed and (left := until - time.monotonic()) > 0:
            self._take(left)
        return int(self._failed)


def short_form(text: str, *, typed: bool) -> Message:
    """The message in `method field=value …`; ValueError says what is wrong with it.

    `typed`: values that read as JSON are taken as such; without it they are text.
    """
    words = shlex.split(text)
    message: Message = {"msg": words[0]}
    for word in words[1:]:
        name, found, value = word.partition("=")
        if not found or not name:
            raise ValueError(f"{word!r} is no field; write name=value, and a value with blanks in quotes")
        message[name] = _read(value) if typed else value
    return message


def _read(value: str) -> Value:
    try:
        read: Value = json.loads(value)
    except ValueError:
        return value
    return read
