"""XML: one `<msg>` element a message, as Flash's XMLSocket and its emulators send it.

    <msg method="chat.say" room="lobby"><text>hi &amp; bye</text><tags><_>a</_><_>b</_></tags></msg>

Guards one rule: one client's bytes never reach another client's message, and never cost more than
their length. Hence a fresh parser for each message (an unclosed comment in a shared one would swallow
the next client's), no document type (which could define entities), no processing instructions, and
nesting limited while parsing.

Attributes and child elements are fields alike; the root's attribute `method` is the field `msg`, and a
field called `method` is a child. An element with fields is a map, one with only `<_>` children a list,
any other a leaf whose white space is kept. Where that leaves something open the attribute `_`, which is
never a field, says what the element is: `null`, `list` or `map`; so `<tags _="list"/>` is empty, and
`<m _="map"><_>a</_></m>` a map whose one field is called `_`. Repeated siblings are kept as
`Siblings`. White space between fields, comments, CDATA sections and an XML declaration are allowed; text
beside fields is not.

Written: scalars as attributes, maps, lists and null as children, so that where a client finds a field
does not depend on its value. TAB, LF and CR in attributes and CR in text are character references,
because a parser would turn them into other white space.
"""

from __future__ import annotations

import re
from typing import Any, Final
from xml.parsers.expat import ExpatError, ParserCreate

from connserver.conversion import to_text
from connserver.errors import ClientError
from connserver.limits import Limits
from connserver.model import MOST_LEVELS, Message, Siblings, Value, check_message, shown

_BLANK: Final = " \t\r\n"
_MARKS: Final = frozenset({"null", "list", "map"})


def decode(data: bytes, limits: Limits, require_msg: bool = True) -> Message:
    """The message in this element; ClientError says where it is wrong."""
    reader = _Reader(min(limits.nesting_levels, MOST_LEVELS), limits.fields)
    parser = ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.characters
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.ProcessingInstructionHandler = _refuse_instruction
    parser.XmlDeclHandler = _check_declaration
    try:
        parser.Parse(data, True)
    except ExpatError as error:
        raise ClientError("bad_message", f"not an XML message: {error}") from None
    message = reader.message
    check_message(message, limits, require_msg)
    return message


def _refuse_doctype(*details: object) -> None:
    raise ClientError("bad_message", "a message has no DOCTYPE")


def _refuse_instruction(target: str, data: str) -> None:
    raise ClientError("bad_message", f"a message has no processing instruction ({shown(target)})")


def _check_declaration(version: str, encoding: str | None, standalone: int) -> None:
    if encoding is not None and encoding.lower() != "utf-8":
        raise ClientError("bad_message", f"messages are UTF-8, not {shown(encoding)}")


class _Element:
    """An element whose end has not come yet. `members` begins with the attributes."""

    __slots__ = ("attributes", "has_children", "mark", "members", "text")

    def __init__(self, members: dict[str, Any], mark: str | None) -> None:
        self.members: dict[str, Value] = members
        self.attributes = len(members)
        self.has_children = False
        self.mark = mark
        self.text = ""


class _Reader:
    """Builds one message from the parser's calls."""

    __slots__ = ("fields", "levels", "message", "open")

    def __init__(self, levels: int, fields: int) -> None:
        self.levels = levels
        self.fields = fields
        self.message: Message = {}
        self.open: list[_Element] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """An element begins; its attributes become the first members of what it may turn out to hold."""
        mark = attributes.pop("_", None)
        if self.open:
            if len(self.open) > self.levels:
                raise ClientError("too_large", "the message is nested in too many levels of maps and lists")
            parent = self.open[-1]
            if not parent.has_children:
                parent.has_children = True
                if parent.text and parent.text.strip(_BLANK):
                    raise _mixed(parent.text)
            if mark is not None and mark not in _MARKS:
                raise ClientError("bad_message", f'the attribute "_" of {shown(name)} is null, list or map')
        elif name != "msg" or mark is not None:
            raise ClientError(
                "bad_message", f"a message is an element <msg>, not {shown(name)} with these attributes"
            )
        elif "method" in attributes:
            if "msg" in attributes:
                raise ClientError("bad_message", "the method is given twice, as 'method' and as 'msg'")
            attributes = {"msg": attributes.pop("method"), **attributes}
        self.open.append(_Element(attributes, mark))

    def characters(self, text: str) -> None:
        """Text of the innermost element."""
        element = self.open[-1]
        if not element.has_children:
            element.text += text
        elif text.strip(_BLANK):
            raise _mixed(text)

    def end(self, name: str) -> None:
        """An element ends: its value becomes a member of the one around it."""
        element = self.open.pop()
        members = element.members
        if not self.open:
            if element.text.strip(_BLANK):
                raise _mixed(element.text)
            self.message = members
            return
        value: Value = element.text
        if members or element.mark is not None:
            value = _value_of(element, name)
        parent = self.open[-1]
        siblings = parent.members
        if name not in siblings:
            siblings[name] = value
            if len(siblings) > self.fields:
                raise ClientError("too_large", f"a map of more than {self.fields} fields")
            return
        first = siblings[name]
        if type(first) is Siblings:
            first.append(value)
        elif name in list(siblings)[: parent.attributes]:
            raise ClientError(
                "bad_message", f"the name {shown(name)} is given twice, as attribute and as element"
            )
        else:
            siblings[name] = Siblings((first, value))


def _value_of(element: _Element, name: str) -> Value:
    """What an element with members or with a mark stands for."""
    members, mark = element.members, element.mark
    if element.text.strip(_BLANK):
        raise _mixed(element.text)
    if mark == "null" and not members:
        return None
    if mark != "map" and not element.attributes and "_" in members and len(members) == 1:
        items = members["_"]
        if mark == "null":
            raise ClientError("bad_message", f"{shown(name)} is marked as null and holds items")
        return list(items) if type(items) is Siblings else [items]
    if mark == "list" and not members:
        return []
    if mark == "list" or mark == "null":
        raise ClientError("bad_message", f"{shown(name)} is marked as {mark} and holds fields")
    return members


def _mixed(text: str) -> ClientError:
    return ClientError("bad_message", f"the text {shown(text.strip(_BLANK))} stands beside fields")


def encode(message: Message) -> bytes:
    """The message as one element without white space of its own."""
    out = ["<msg"]
    _write_members("msg", message, out, _ROOT_CHILDREN)
    return "".join(out).encode()


_ROOT_CHILDREN: Final = frozenset({"_", "xmlns", "method"})
_CHILDREN: Final = frozenset({"_", "xmlns"})
"""Fields written as children though they are scalars: as attributes these names mean something else."""

_to_escape_in_attribute = re.compile('[&<>"\t\n\r]').search
_to_escape_in_text = re.compile("[&<>\r]").search
_TEXT_ESCAPES: Final = {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;", ord("\r"): "&#13;"}
_ATTRIBUTE_ESCAPES: Final = _TEXT_ESCAPES | {ord('"'): "&quot;", ord("\t"): "&#9;", ord("\n"): "&#10;"}


def _write_members(tag: str, members: dict[str, Value], out: list[str], never: frozenset[str]) -> None:
    """Write fields after an open `<tag`, and close it."""
    children: list[tuple[str, Value]] = []
    for name, value in members.items():
        if value is None or type(value) is dict or type(value) is list or name in never:
            children.append((name, value))
            continue
        text = value if type(value) is str else to_text(value)
        if _to_escape_in_attribute(text):
            text = text.translate(_ATTRIBUTE_ESCAPES)
        if name == "msg" and never is _ROOT_CHILDREN:
            name = "method"
        out.append(f' {name}="{text}"')
    if not children:
        out.append("/>")
        return
    out.append(">")
    for name, value in children:
        _write_element(name, value, out)
    out.append(f"</{tag}>")


def _write_element(tag: str, value: Value, out: list[str]) -> None:
    if isinstance(value, dict):
        is_open = bool(value) and not (len(value) == 1 and "_" in value)
        out.append(f"<{tag}" if is_open else f'<{tag} _="map"')
        _write_members(tag, value, out, _CHILDREN)
    elif isinstance(value, list):
        if not value:
            out.append(f'<{tag} _="list"/>')
            return
        out.append(f"<{tag}>")
        for item in value:
            _write_element("_", item, out)
        out.append(f"</{tag}>")
    elif value is None:
        out.append(f'<{tag} _="null"/>')
    else:
        text = value if type(value) is str else to_text(value)
        if _to_escape_in_text(text):
            text = text.translate(_TEXT_ESCAPES)
        out.append(f"<{tag}>{text}</{tag}>")
