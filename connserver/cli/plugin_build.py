"""`cs-cluster plugin build`: from a plugin's C++ sources to the library that workers load."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import click

from connserver.cli.output import json_option, print_json
from connserver.errors import ClusterError
from connserver.native.build import build_plugin, host_library, sources_of


@click.command("build")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("words", nargs=-1)
@json_option
def build_command(folder: Path, words: tuple[str, ...], as_json: bool) -> None:
    """Compile the C++ plugin in FOLDER into the library that its plugin.toml names.

    Its sources are *.cpp, *.cc and *.cxx in FOLDER and in FOLDER/src. $CXX names the compiler, else g++ or
    clang++ is taken. WORDS after -- go to the compiler, too: libraries, definitions. The new library is
    loaded once, in this process, and what is wrong with it is said here.

    \b
    Examples:
      cs-cluster plugin build plugins/world_native
      cs-cluster plugin build mygame -- -DNDEBUG -lz
    """
    # Named, not imported: this package imports none of the process packages.
    manifest = import_module("partition.manifest").read_manifest(folder, built=False)
    if manifest.language != "c++":
        raise ClusterError(f"{folder} is a plugin in {manifest.language}, and needs no building")
    library, said = build_plugin(manifest.folder, manifest.entry, words)
    host = host_library()
    plugin = import_module("partition.loader").load_manifest(manifest)
    if as_json:
        print_json(
            {
                "name": plugin.name,
                "version": plugin.version,
                "library": str(library),
                "host": str(host),
                "sources": [str(path) for path in sources_of(manifest.folder)],
                "methods": sorted(method.name for method in plugin.methods),
                "said": said,
            }
        )
        return
    if said:
        click.echo(said, err=True)
    click.echo(f"{library}: {plugin.name} {plugin.version}, {len(plugin.methods)} methods")
