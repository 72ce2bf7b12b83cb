"""A dry load: whether plugins can be loaded, together, and can read what is stored; harming nobody.

A plugin runs code of its own when it is loaded, so this happens in a process of its own, which may
crash, hang or eat its memory. Guards the rule that nothing is attached which was not loaded before, as
a whole, against samples of the stored objects. Standard input: one msgpack map, the Question; the last
line of standard output: {"error": why not, or ""} in JSON.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack

from connserver.errors import PluginLoadError
from connserver.limits import (
    PLUGIN_CHECK_MEMORY_BYTES,
    PLUGIN_CHECK_S,
    PLUGIN_SAMPLE_BYTES,
    PLUGIN_SAMPLE_OBJECTS,
)
from connserver.messages import Image
from partition.assembly import assemble
from partition.kinds import SYSTEM
from partition.loader import load_plugin
from partition.objects import Store
from partition.plugins_stage import Staged, in_words_of

WORDS_CHARS = 600
"""Of what a process that died wrote last."""


@dataclass(frozen=True, slots=True)
class Samples:
    """`images`: some of each kind and schema; `schemas`: all there are, by kind."""

    images: tuple[Image, ...]
    schemas: dict[str, list[int]]


def samples_of(store: Store) -> Samples:
    """What a new version has to be able to read."""
    taken: dict[tuple[str, int], int] = {}
    images = []
    size = 0
    for image in store:
        key = image.kind, image.schema
        if image.kind.startswith(SYSTEM) or image.data is None:
            continue
        count = taken[key] = taken.get(key, 0) + 1
        if count <= PLUGIN_SAMPLE_OBJECTS and size < PLUGIN_SAMPLE_BYTES:
            size += len(image.data)
            images.append(image)
    schemas: dict[str, list[int]] = {}
    for kind, schema in sorted(taken):
        schemas.setdefault(kind, []).append(schema)
    return Samples(tuple(images), schemas)


def dry_load(
    copies: Sequence[tuple[Staged, Staged | None]], samples: Samples, *, needs_login: bool = False
) -> str:
    """Load these, in a process of its own; why they cannot be, or "". Blocks for PLUGIN_CHECK_S at most."""
    lenders = [lender for _, lender in copies if lender is not None]
    question = {
        "plugins": [str(copy.manifest.folder) for copy, _ in copies],
        "lenders": [str(lender.manifest.folder) for lender in lenders],
        "images": [[image.oid, image.kind, image.schema, image.data] for image in samples.images],
        "schemas": samples.schemas,
        "needs_login": needs_login,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "partition.plugins_check"],
            input=msgpack.packb(question),
            capture_output=True,
            timeout=PLUGIN_CHECK_S,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        return f"the plugin was not loaded within {PLUGIN_CHECK_S:g} s: its import does too much"
    except OSError as error:
        return f"no process could be started to try the plugin in: {error.strerror}"
    told = _verdict(done)
    for pair in copies:
        for copy in pair:
            if copy is not None:
                told = in_words_of(told, copy.manifest.folder, copy.source)
    return told


def _verdict(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    try:
        answer = json.loads(lines[-1]) if done.returncode == 0 and lines else None
    except ValueError:
        answer = None
    if isinstance(answer, dict) and isinstance(answer.get("error"), str):
        return str(answer["error"])
    words = done.stderr.decode("utf-8", "replace").strip()[-WORDS_CHARS:]
    said = f"; its last words: {words}" if words else ""
    return f"the plugin ended the process that loaded it: {_exit_in_words(done.returncode)}{said}"


def _exit_in_words(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


# --- in the process of its own ----------------------------------------------------------------------------


def check(question: dict[str, Any]) -> str:
    """Why these plugins cannot be attached, or ""."""
    try:
        plugins = [load_plugin(Path(folder)) for folder in question["plugins"]]
        lenders = [load_plugin(Path(folder)) for folder in question["lenders"]]
        table = assemble(plugins, lenders)
        if question["needs_login"]:
            table.require_login()
        table.refuse_schemas({kind: set(schemas) for kind, schemas in question["schemas"].items()})
        images = (Image(*row) for row in question["images"])
        return _unreadable(table.kinds.of_image, images)
    except PluginLoadError as error:
        return str(error)


def _unreadable(kind_of: Any, images: Iterable[Image]) -> str:
    for image in images:
        kind = kind_of(image)
        if kind is None:
            continue
        try:
            kind.load(image)
        except PluginLoadError as error:
            return str(error)
    return ""


def main() -> None:
    """Answer the question on standard input."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what a plugin prints is none of the answer
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (PLUGIN_CHECK_MEMORY_BYTES, PLUGIN_CHECK_MEMORY_BYTES))
    signal.alarm(int(PLUGIN_CHECK_S) + 1)  # also if whoever asked has died
    question = msgpack.unpackb(sys.stdin.buffer.read(), strict_map_key=False)
    error = check(question)
    os.write(answers, json.dumps({"error": error}).encode() + b"\n")
    os._exit(0)  # what a plugin left running ends with this


if __name__ == "__main__":
    main()
