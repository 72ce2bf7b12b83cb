"""The collision report: what of a library would be mixed up with what the process has already.

Guards the rule that two plugins, or two versions of one, never share a variable or a function by accident.
Libraries are loaded with RTLD_LOCAL, which keeps ordinary symbols apart; four things get past it, and a
library with one of them is refused, with the names:

* unique symbols (STB_GNU_UNIQUE: statics of templates and of inline functions, inline variables), which the
  whole process has once, whoever loaded them;
* exported symbols that the program itself has: the library would be bound to the program's;
* a dependency of a soname that is in the process from another file: it would get that other file;
* a library that makes its symbols global (DF_1_GLOBAL).

Exported symbols that two libraries share are kept apart by RTLD_LOCAL; they are named, because a careless
dlopen of the plugin's own would mix them. What `cs-cluster plugin build` makes has none of all this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from partition.native.elf import Elf

ENTRY: Final = "connserver_plugin"
SHOWN: Final = 8
"""Names of one sort in a sentence."""

ADVICE: Final = "cs-cluster plugin build compiles without them; by hand: -fvisibility=hidden -fno-gnu-unique"

LINKERS: Final = frozenset({"_init", "_fini", "_edata", "_end", "__bss_start", "__end__"})
"""What some linkers export of every library; nothing is bound to them."""


@dataclass(frozen=True, slots=True)
class File:
    """A library's file; `identity` differs from any other's, also from a later one of the same path."""

    path: str
    identity: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A plugin's library in this process. `title` is for people: "world 2.0.0 (…/libworld.so)"."""

    title: str
    elf: Elf


@dataclass(slots=True)
class Report:
    """What was found. `refusals`: sentences for which the library is not loaded. `notes`: worth knowing."""

    refusals: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def compare(
    elf: Elf,
    loaded: Iterable[Loaded],
    *,
    needed: Mapping[str, File | None],
    mapped: Mapping[str, File],
    brought: Iterable[str],
    in_program: Callable[[str], bool],
) -> Report:
    """The report on a library that is about to be loaded.

    `needed`: soname → the file that the search folders of the library have, None where the system's is
    meant. `mapped`: soname → the file in the process. `brought`: sonames that plugins have brought
    themselves. `in_program`: whether a symbol is one of the process's global ones.
    """
    report = Report()
    if elf.unique:
        report.refusals.append(
            f"{_listed(elf.unique)}: unique in the whole process, so other plugins' would be mixed with "
            f"them; {ADVICE}"
        )
    if elf.makes_global:
        report.refusals.append("it makes its symbols global (DF_1_GLOBAL); link it without -z global")
    others = elf.exports - {ENTRY} - elf.unique - LINKERS
    taken = {name for name in others if in_program(name)}
    if taken:
        report.refusals.append(
            f"{_listed(taken)}: exported, and the program has them too, so it would be bound to the "
            f"program's; {ADVICE}"
        )
    for soname, own in needed.items():
        _compare_needed(soname, own, mapped.get(soname), soname in brought, report)
    for other in loaded:
        shared = others & other.elf.exports
        if shared:
            report.notes.append(
                f"{_listed(shared)}: exported by {other.title}, too; they are kept apart as long as nobody "
                f"loads either with RTLD_GLOBAL; {ADVICE}"
            )
    return report


def _compare_needed(
    soname: str, own: File | None, present: File | None, brought: bool, report: Report
) -> None:
    if present is None or (own is None and not brought):
        return
    if own is not None and own.identity == present.identity:
        return
    wanted = own.path if own is not None else "the system"
    report.refusals.append(
        f"it needs {soname} from {wanted}, and the process has that name from {present.path} already, which "
        "it would get instead; link it statically, or give one of them another soname"
    )


def _listed(names: Iterable[str]) -> str:
    every = sorted(names)
    rest = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + rest
