"""`lorikeet keys …`: make, list, limit and revoke the API keys of a server."""

import re
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from registry.errors import UnknownAdapter, UsageError
from registry.terminal import print_json

if TYPE_CHECKING:
    from registry.keys import Key
    from registry.store import Registry

app = typer.Typer(
    name="keys",
    help="Make, list, limit and revoke API keys. With the first, a server asks everybody for one.",
    no_args_is_help=True,
)


def _complete_key(incomplete: str) -> list[str]:
    from registry.store import Registry

    with Registry.open() as registry:
        return [
            key.id
            for key in registry.keys.list()
            if key.revoked_at is None and key.id.startswith(incomplete)
        ]


KeyId = Annotated[
    str,
    typer.Argument(
        help="The key's id, as `lorikeet keys list` shows it.",
        metavar="ID",
        autocompletion=_complete_key,
    ),
]


@app.command(epilog="Example: KEY=$(lorikeet keys create --tenant news --adapters titulares)")
def create(
    tenant: Annotated[
        str, typer.Option(help="Whose key: tenants share the server fairly, and no cached prompt.")
    ],
    adapters: Annotated[
        str | None,
        typer.Option(help="The adapters it reaches, as a,b; all of them where left out."),
    ] = None,
    rpm: Annotated[
        int | None, typer.Option(help="Requests a minute; no limit if left out.")
    ] = None,
    tpm: Annotated[
        int | None, typer.Option(help="Prompt and output tokens a minute; no limit if left out.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Requests at once; no limit if left out.")
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="Let it use /admin too.")] = False,
    expires: Annotated[
        str | None,
        typer.Option(
            help="When it ends: in 30d or 12h, with the day 2026-12-31, or at a time "
            "(2026-12-31T18:00+01:00); never if left out.",
            metavar="WHEN",
        ),
    ] = None,
    from_file: Annotated[
        Path | None,
        typer.Option(
            help="Take the key from this file, of a secret store, instead of making one up; "
            "nothing changes where it is there already, or has ended.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
) -> None:
    """Make an API key. The key itself is all that is printed on standard output, this once."""
    from registry.store import Registry

    secret = None if from_file is None else from_file.read_text().strip()
    names = None if adapters is None else [name.strip() for name in adapters.split(",")]
    expires_at = None if expires is None else parse_expiry(expires)
    with Registry.open() as registry:
        first = not registry.keys.exist()
        key, made = registry.keys.create(
            tenant,
            adapters=names,
            rpm=rpm,
            tpm=tpm,
            concurrency=concurrency,
            admin=admin,
            expires_at=expires_at,
            secret=secret,
        )
        unknown = _not_published(registry, key)
    if secret is None:
        typer.echo(made)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for name in unknown:
        console.print(f"[bold yellow]warning[/] there is no adapter {name} yet", highlight=False)
    if not key.active:
        console.print(
            f"[bold yellow]warning[/] key {key.id} has ended, and stays so: it opens nothing. Put "
            "another one into the file for a key that does."
        )
        return
    console.print(
        f"Key {key.id} of {key.tenant}: {_reach(key)}; {_limits(key)}; expires {_day(key)}."
    )
    if secret is None:
        console.print(
            "Keep it now, it is not shown again: send it as Authorization: Bearer KEY, "
            "or set OPENAI_API_KEY."
        )
    if first:
        console.print("It is the first: from now on the server answers nobody without a key.")


@app.command("list", epilog="Example: lorikeet keys list --json | jq '.[] | select(.active)'")
def list_keys(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """List every key that was ever made; the keys themselves are not kept, only their ids."""
    from rich.table import Table

    from registry.store import Registry

    with Registry.open() as registry:
        keys = registry.keys.list()
    if as_json:
        print_json([key.summary() for key in keys])
        return
    if not keys:
        Console().print(
            "No keys: the server answers everybody on this machine, and nobody else. "
            "[bold]lorikeet keys create --tenant NAME[/] makes one.",
            highlight=False,
        )
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("key", "tenant", "reaches", "limits", "expires", "state"):
        table.add_column(title, overflow="fold", no_wrap=title in ("key", "expires", "state"))
    for key in keys:
        state = "active" if key.active else "expired" if key.revoked_at is None else "revoked"
        table.add_row(key.id, key.tenant, _reach(key), _limits(key), _day(key), state)
    Console().print(table)


@app.command(epilog="Example: lorikeet keys limit 981ed099f7d3 --rpm 60 --concurrency 4 --tpm 0")
def limit(
    key_id: KeyId,
    rpm: Annotated[int | None, typer.Option(help="Requests a minute; 0 for no limit.")] = None,
    tpm: Annotated[
        int | None, typer.Option(help="Prompt and output tokens a minute; 0 for no limit.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Requests at once; 0 for no limit.")
    ] = None,
) -> None:
    """Change a key's limits; those that are left out stay. A running server obeys in a second."""
    from registry.store import Registry

    options = {"rpm": rpm, "tpm": tpm, "concurrency": concurrency}
    limits = {what: value or None for what, value in options.items() if value is not None}
    if not limits:
        raise UsageError("no limit is named", remedy="say --rpm, --tpm or --concurrency")
    with Registry.open() as registry:
        key = registry.keys.limit(key_id, limits)
    Console().print(f"Key {key.id} of {key.tenant}: {_limits(key)}", highlight=False)


@app.command(epilog="Example: lorikeet keys revoke 981ed099f7d3")
def revoke(key_id: KeyId) -> None:
    """End a key for good; a running server refuses it within a second."""
    from registry.store import Registry

    with Registry.open() as registry:
        key = registry.keys.revoke(key_id)
    Console().print(f"Revoked {key.id} of {key.tenant}", highlight=False)


def parse_expiry(text: str) -> datetime:
    """The time that `30d`, `12h`, a day (its end) or an ISO 8601 time means; local without a zone.

    Raises UsageError.
    """
    try:
        if span := re.fullmatch(r"([1-9]\d{0,5})([dh])", text):
            hours = int(span[1]) * (24 if span[2] == "d" else 1)
            return datetime.now(UTC) + timedelta(hours=hours)
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
            return datetime.combine(datetime.fromisoformat(text), time.max).astimezone(UTC)
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{text[:80]!r} is no time for a key to expire",
            remedy="write 30d, 12h, 2026-12-31 or 2026-12-31T18:00+01:00",
        ) from error


def _not_published(registry: "Registry", key: "Key") -> list[str]:
    unknown = []
    for name in sorted(key.adapters or ()):
        try:
            registry.get(name)
        except UnknownAdapter:
            unknown.append(name)
    return unknown


def _reach(key: "Key") -> str:
    names = "all adapters" if key.adapters is None else ", ".join(sorted(key.adapters))
    return f"{names} and /admin" if key.admin else names


def _limits(key: "Key") -> str:
    limits = [(key.rpm, "rpm"), (key.tpm, "tpm"), (key.concurrency, "at once")]
    return ", ".join(f"{limit} {what}" for limit, what in limits if limit) or "no limits"


def _day(key: "Key") -> str:
    return "never" if key.expires_at is None else f"{key.expires_at.astimezone():%Y-%m-%d %H:%M}"
