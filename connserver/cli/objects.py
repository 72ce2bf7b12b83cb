"""`cs-cluster object …`: looking into a running world. A write is an ordinary operation of the world."""

from __future__ import annotations

import json
from typing import Any

import click

from connserver.cli.find import admin
from connserver.cli.output import json_option, print_json


@click.group("object")
def object_command() -> None:
    """Look at and change objects of the running world.

    \b
    Examples:
      cs-cluster object list --kind user
      cs-cluster object get 00fe800000000001
    """


@object_command.command("get")
@click.argument("oid")
@json_option
@click.pass_context
def get_command(context: click.Context, oid: str, as_json: bool) -> None:
    """Show the object with this id: 16 hex digits, or partition:local.

    \b
    Example:
      cs-cluster object get 00fe800000000001
    """
    with admin(context) as cluster:
        answer = cluster.ask("object.get", oid=oid)
    # An object is a document; there is no table that would show it better.
    print_json(answer, pretty=not as_json)


@object_command.command("list")
@click.option("--kind", required=True, help="The kind of objects, as the plugin calls it.")
@click.option("--group", type=int, help="Of this partition group only.")
@click.option("--after", default="", metavar="OID", help="Go on after this one: `next` of the last page.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@json_option
@click.pass_context
def list_command(
    context: click.Context, kind: str, group: int | None, after: str, limit: int, as_json: bool
) -> None:
    """List objects of a kind, a page at a time.

    \b
    Example:
      cs-cluster object list --kind user --limit 20
    """
    arguments: dict[str, Any] = {"kind": kind, "after": after, "limit": limit}
    if group is not None:
        arguments["group"] = group
    with admin(context) as cluster:
        answer = cluster.ask("object.list", **arguments)
    if as_json:
        print_json(answer)
        return
    for row in answer["objects"]:
        print_json(row, pretty=False)
    if answer["next"]:
        click.echo(f"there are more: --after {answer['next']}", err=True)


@object_command.command("put")
@click.argument("oid")
@click.argument("fields", metavar="JSON")
@click.option("--kind", required=True, help="The kind of the object.")
@click.option("--near", metavar="OID", help="For a new one: in the partition of this object.")
@json_option
@click.pass_context
def put_command(
    context: click.Context, oid: str, fields: str, kind: str, near: str | None, as_json: bool
) -> None:
    """Write an object's fields, given as a JSON object; OID `new` makes one.

    \b
    Examples:
      cs-cluster object put 00fe800000000001 --kind player '{"gold": 5}'
      cs-cluster object put new --kind thing '{"zone": "z0", "name": "lamp"}'
    """
    try:
        values = json.loads(fields)
    except ValueError as error:
        raise click.BadParameter(f"is no JSON: {error}", param_hint="JSON") from None
    if not isinstance(values, dict):
        raise click.BadParameter('has to be an object, such as {"gold": 5}', param_hint="JSON")
    arguments: dict[str, Any] = {"oid": "" if oid == "new" else oid, "kind": kind, "fields": values}
    if near is not None:
        arguments["near"] = near
    with admin(context) as cluster:
        answer = cluster.ask("object.put", **arguments)
    print_json(answer, pretty=not as_json)


@object_command.command("delete")
@click.argument("oid")
@json_option
@click.pass_context
def delete_command(context: click.Context, oid: str, as_json: bool) -> None:
    """Delete the object with this id.

    \b
    Example:
      cs-cluster object delete 00fe800000000001
    """
    with admin(context) as cluster:
        answer = cluster.ask("object.delete", oid=oid)
    print_json(answer, pretty=not as_json)
