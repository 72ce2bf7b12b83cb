"""Reading a shared library's dynamic section: what it exports, what it needs, what it is called.

Guards the rule that a library is looked at before any of its code runs, and read as hostile bytes: every
offset and count is checked against the file, and what is damaged is refused with a reason.
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass
from mmap import mmap
from typing import Final

from connserver.limits import NATIVE_SYMBOLS

_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT: Final = struct.Struct("<IIQQQQQQ")
_DYNAMIC: Final = struct.Struct("<qQ")
_SYMBOL: Final = struct.Struct("<IBBHQQ")

_MACHINES: Final = {"x86_64": 62, "aarch64": 183, "riscv64": 243, "ppc64le": 21}
_SHARED: Final = 3
_PT_LOAD, _PT_DYNAMIC = 1, 2
_NEEDED, _HASH, _STRTAB, _SYMTAB, _STRSZ, _SONAME, _RPATH = 1, 4, 5, 6, 10, 14, 15
_RUNPATH, _GNU_HASH, _FLAGS_1 = 29, 0x6FFFFEF5, 0x6FFFFFFB
_DF_1_GLOBAL, _DF_1_NODELETE, _DF_1_PIE = 0x2, 0x8, 0x08000000
_GLOBAL, _WEAK, _UNIQUE = 1, 2, 10
_BINDINGS: Final = frozenset({_GLOBAL, _WEAK, _UNIQUE})
_VISIBLE: Final = frozenset({0, 3})
_MOST_DYNAMIC: Final = 4096
_MOST_TEXT: Final = 65_536


@dataclass(frozen=True, slots=True)
class Elf:
    """A shared library, as far as the dynamic linker looks at it.

    `exports`: symbols that others can be bound to; `unique`: those of them that the whole process has
    once (STB_GNU_UNIQUE). `needed`: sonames. `search`: folders of DT_RUNPATH, else of DT_RPATH, as they
    are written. `makes_global`: it wants its symbols to be everybody's.
    """

    soname: str
    needed: tuple[str, ...]
    search: tuple[str, ...]
    exports: frozenset[str]
    unique: frozenset[str]
    makes_global: bool


def read_elf(data: bytes | mmap, machine: str) -> Elf:
    """Read a library's bytes; ValueError says why they are none for this `machine` (as platform names it)."""
    try:
        return _Reader(data, machine).read()
    except (struct.error, IndexError, OverflowError):
        raise ValueError("the file is damaged: it ends before what its headers tell of") from None


class _Reader:
    """Reads one file."""

    def __init__(self, data: bytes | mmap, machine: str) -> None:
        self._data = data
        self._machine = machine
        self._loads: list[tuple[int, int, int]] = []
        self._text_at = 0
        self._text_size = 0

    def read(self) -> Elf:
        dynamic = self._dynamic()
        single = dict(reversed(dynamic))
        for tag, what in ((_STRTAB, "names"), (_SYMTAB, "symbols"), (_STRSZ, "names")):
            if tag not in single:
                raise ValueError(f"its dynamic section has no table of {what}")
        self._text_at, self._text_size = self._offset(single[_STRTAB]), single[_STRSZ]
        flags = single.get(_FLAGS_1, 0)
        if flags & _DF_1_PIE:
            raise ValueError("it is a program, not a shared library: link it with -shared")
        search = single.get(_RUNPATH, single.get(_RPATH))
        exports, unique = self._symbols(single)
        return Elf(
            soname=self._text(single[_SONAME]) if _SONAME in single else "",
            needed=tuple(self._text(value) for tag, value in dynamic if tag == _NEEDED),
            search=tuple(part for part in self._text(search).split(":") if part)
            if search is not None
            else (),
            exports=exports,
            unique=unique,
            makes_global=bool(flags & _DF_1_GLOBAL),
        )

    def _dynamic(self) -> list[tuple[int, int]]:
        ident, kind, machine, _, _, segments_at, *_, size, count, _, _, _ = _HEADER.unpack_from(self._data)
        if ident[:4] != b"\x7fELF":
            raise ValueError("it is no shared library (ELF)")
        if ident[4] != 2 or ident[5] != 1 or sys.byteorder != "little":
            raise ValueError("it is not for a machine of 64 bits, low bytes first")
        if machine != _MACHINES.get(self._machine, machine):
            raise ValueError(f"it is for another processor (ELF machine {machine}), this is {self._machine}")
        if kind != _SHARED:
            raise ValueError("it is not a shared library: link it with -shared")
        if size != _SEGMENT.size:
            raise ValueError("the file is damaged: its program headers have another size")
        dynamic: tuple[int, int] | None = None
        for number in range(count):
            sort, _, offset, address, _, in_file, _, _ = _SEGMENT.unpack_from(
                self._data, segments_at + number * size
            )
            if sort == _PT_LOAD:
                self._loads.append((address, offset, in_file))
            elif sort == _PT_DYNAMIC:
                dynamic = offset, in_file
        if dynamic is None:
            raise ValueError("it has no dynamic section: link it with -shared")
        found = []
        for number in range(min(dynamic[1] // _DYNAMIC.size, _MOST_DYNAMIC)):
            tag, value = _DYNAMIC.unpack_from(self._data, dynamic[0] + number * _DYNAMIC.size)
            if tag == 0:
                break
            found.append((tag, value))
        return found

    def _offset(self, address: int) -> int:
        for start, offset, size in self._loads:
            if start <= address < start + size:
                return offset + address - start
        raise ValueError(f"the file is damaged: nothing is loaded at address {address:#x}")

    def _text(self, at: int) -> str:
        if not 0 <= at < self._text_size:
            raise ValueError("the file is damaged: a name lies outside of the table of names")
        begin = self._text_at + at
        end = self._data.find(b"\0", begin, min(self._text_at + self._text_size, begin + _MOST_TEXT))
        if end < 0:
            raise ValueError("the file is damaged: a name has no end")
        return self._data[begin:end].decode("utf-8", "backslashreplace")

    def _symbols(self, single: dict[int, int]) -> tuple[frozenset[str], frozenset[str]]:
        at = self._offset(single[_SYMTAB])
        exports, unique = set(), set()
        for number in self._exported(single):
            name, info, other, section, _, _ = _SYMBOL.unpack_from(self._data, at + number * _SYMBOL.size)
            binding, visibility = info >> 4, other & 3
            if section == 0 or binding not in _BINDINGS or visibility not in _VISIBLE:
                continue
            exports.add(self._text(name))
            if binding == _UNIQUE:
                unique.add(self._text(name))
        return frozenset(exports), frozenset(unique)

    def _exported(self, single: dict[int, int]) -> range:
        """Numbers of the symbols in the table that the dynamic linker looks names up in."""
        if _GNU_HASH in single:
            return self._gnu_hash(self._offset(single[_GNU_HASH]))
        if _HASH in single:
            _, count = struct.unpack_from("<II", self._data, self._offset(single[_HASH]))
            return _bounded(range(count))
        return range(0)

    def _gnu_hash(self, at: int) -> range:
        buckets, first, bloom, _ = struct.unpack_from("<IIII", self._data, at)
        if buckets > NATIVE_SYMBOLS or bloom > NATIVE_SYMBOLS:
            raise ValueError("the file is damaged: its table of symbols is larger than any can be")
        buckets_at = at + 16 + 8 * bloom
        last = max(struct.unpack_from(f"<{buckets}I", self._data, buckets_at), default=0)
        if last < first:
            return range(0)
        chain_at = buckets_at + 4 * buckets
        while not struct.unpack_from("<I", self._data, chain_at + 4 * (last - first))[0] & 1:
            last += 1
            _bounded(range(first, last))
        return _bounded(range(first, last + 1))


def _bounded(numbers: range) -> range:
    if len(numbers) > NATIVE_SYMBOLS:
        raise ValueError(f"it has more than {NATIVE_SYMBOLS} symbols; -fvisibility=hidden leaves few")
    return numbers
