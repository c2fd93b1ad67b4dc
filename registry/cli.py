"""`lorikeet adapters …`: look at the registry, move aliases, import and check adapters."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from registry.details import aliases_of, print_details, size, summary
from registry.errors import AdapterRejected, UsageError
from registry.reference import PROD, Reference
from registry.terminal import print_json

if TYPE_CHECKING:
    from registry.bases import OnProgress
    from registry.problem import Problem
    from registry.version import Version

app = typer.Typer(
    name="adapters",
    help="List, check, import, promote and remove adapter versions.",
    no_args_is_help=True,
)


def _complete_name(incomplete: str) -> list[str]:
    from registry.store import Registry

    with Registry.open() as registry:
        return sorted({v.name for v in registry.list() if v.name.startswith(incomplete)})


def _complete_version(incomplete: str) -> list[str]:
    from registry.store import Registry

    with Registry.open() as registry:
        return [v.reference for v in registry.list() if v.reference.startswith(incomplete)]


Name = Annotated[
    str, typer.Argument(help="The adapter's name.", metavar="NAME", autocompletion=_complete_name)
]
Which = Annotated[
    str,
    typer.Argument(
        help="NAME (what is served), NAME@VERSION or NAME@ALIAS.",
        metavar="NAME[@V]",
        autocompletion=_complete_version,
    ),
]
OneVersion = Annotated[
    str,
    typer.Argument(help="The version.", metavar="NAME@VERSION", autocompletion=_complete_version),
]
Alias = Annotated[str, typer.Option(help="The alias to move.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
BaseName = Annotated[
    str, typer.Option(help="The base model: its name, a Hugging Face id or a local folder.")
]
MaxRank = Annotated[int, typer.Option(min=1, help="The highest rank that the server takes.")]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict", help="Refuse an adapter whose tokenizer or chat template is not the base's."
    ),
]


@app.command("list", epilog="Example: lorikeet adapters list --json | jq '.[].reference'")
def list_versions(as_json: AsJson = False) -> None:
    """List every version of every adapter."""
    from rich.table import Table

    from registry.store import Registry

    with Registry.open() as registry:
        versions = registry.list()
    if as_json:
        print_json([summary(version) for version in versions])
        return
    if not versions:
        Console().print(
            "No adapters yet: [bold]lorikeet train --data FILE --name NAME[/] makes one, "
            "[bold]lorikeet adapters import[/] takes one in.",
            highlight=False,
        )
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("adapter", "aliases", "base", "rank", "size", "made"):
        right = title in ("rank", "size")
        table.add_column(title, justify="right" if right else "left", no_wrap=title != "aliases")
    for version in versions:
        manifest = version.manifest
        table.add_row(
            version.reference,
            ", ".join(aliases_of(version)),
            manifest.base.id,
            str(manifest.rank),
            size(manifest.total_bytes),
            f"{manifest.created_at.astimezone():%Y-%m-%d %H:%M}",
            style="red" if version.quarantine else None,
        )
    console = Console()
    console.print(table)
    for version in versions:
        if version.quarantine:
            _say_quarantine(version, console)


@app.command(epilog="Example: lorikeet adapters show titulares@3 --json")
def show(which: Which, as_json: AsJson = False) -> None:
    """Show all that is known of a version: base, files, training, evaluation."""
    from registry.store import Registry

    reference = Reference.parse(which)
    with Registry.open() as registry:
        version = registry.get(reference)
        others = [v for v in registry.list() if v.name == version.name]
        forced = registry.forced(reference)
    if as_json:
        manifest = version.manifest.model_dump(mode="json")
        more = {"versions": [other.number for other in others], "manifest": manifest}
        print_json(summary(version) | more | {"forced": [each.as_dict() for each in forced]})
        return
    print_details(version, others, forced)


@app.command(epilog="Example: lorikeet adapters promote titulares 4 --canary 10")
def promote(
    name: Name,
    version: Annotated[int, typer.Argument(help="The version's number.", metavar="VERSION", min=1)],
    alias: Alias = PROD,
    canary: Annotated[
        int | None,
        typer.Option(
            help="Give the version this share of the alias's requests, in per cent, and leave the "
            "rest where it is; the same user always gets the same version.",
            metavar="PERCENT",
            min=1,
            max=99,
        ),
    ] = None,
    force: Annotated[
        str | None,
        typer.Option(help="Promote what the gate holds back, for this reason; it is kept."),
    ] = None,
    expect: Annotated[
        int | None,
        typer.Option(
            help="Only if the alias points at this version still, and has no other canary; "
            "0: only if it is not set.",
            metavar="VERSION",
            min=0,
        ),
    ] = None,
) -> None:
    """Point an alias at a version; the server follows with the next request.

    Only a version whose evaluation shows that it is better than the base, and than the base with a
    few-shot prompt, becomes prod; other aliases are free. `lorikeet eval` makes that evaluation.

    With --canary only a share of its requests: promote the version whole when it does well, or
    roll back.

    With --expect two who publish at the same time do not undo each other.
    """
    from registry.store import Registry

    with Registry.open() as registry:
        promoted = registry.promote(
            name, version, alias, canary=canary, force=force, expected=expect
        )
        if canary is None:
            _say_alias(promoted, alias)
            return
        stays = next(a.number for a in registry.aliases(name) if a.alias == alias)
    Console().print(
        f"{name}@{alias} is {name}@{stays}, and {promoted.reference} for {canary} %",
        highlight=False,
    )


@app.command(epilog="Example: lorikeet adapters rollback titulares")
def rollback(name: Name, alias: Alias = PROD) -> None:
    """End an alias's canary, or point it at what it pointed to before; again, further back."""
    from registry.store import Registry

    with Registry.open() as registry:
        _say_alias(registry.rollback(name, alias), alias)


@app.command(epilog="Example: lorikeet adapters release titulares@4")
def release(which: OneVersion) -> None:
    """Let a version be served again that was quarantined for what it did."""
    from registry.store import Registry

    name, number = _one_version(which, "release")
    with Registry.open() as registry:
        before = registry.get(Reference(name, version=number))
        registry.release(name, number)
    said = "was not quarantined" if before.quarantine is None else "may be served again"
    Console().print(f"{before.reference} {said}", highlight=False)


@app.command("import", epilog="Example: lorikeet adapters import ./my-peft-output --name titulares")
def import_adapter(
    path: Annotated[Path, typer.Argument(help="Folder that PEFT's save_pretrained wrote.")],
    name: Annotated[str, typer.Option(help="The adapter's name.", autocompletion=_complete_name)],
    base: BaseName = "smollm2-135m-instruct",
    max_rank: MaxRank = 64,
    strict: Strict = False,
) -> None:
    """Check an adapter that was made elsewhere and publish it as a new version."""
    from registry.bases import resolve_base
    from registry.preflight import Limits
    from registry.reference import check_name
    from registry.store import Registry

    check_name(name)
    warnings: list[Problem] = []
    with Registry.open() as registry:
        with _progress() as on_progress:
            found = resolve_base(base, registry.settings, on_progress)
        before = {v.number for v in registry.list() if v.name == name}
        try:
            version = registry.publish(
                path,
                name,
                base=found,
                origin="import",
                limits=Limits(max_rank=max_rank, strict_tokenizer=strict),
                on_warning=warnings.append,
            )
        except AdapterRejected as error:
            _print_problems(error.problems)
            raise typer.Exit(1) from error
    _print_problems(warnings)
    if version.quarantine:
        _say_quarantine(version, Console())
    verb = "is already published as" if version.number in before else "published as"
    Console().print(f"{path.name} {verb} [bold]{version.reference}[/] ({version.digest})")


@app.command(epilog="Example: lorikeet adapters remove titulares@2")
def remove(which: OneVersion) -> None:
    """Delete a version that no alias points at. Its number is not used again."""
    from registry.store import Registry

    name, number = _one_version(which, "remove")
    with Registry.open() as registry:
        registry.remove(name, number)
    Console().print(f"Removed {name}@{number}", highlight=False)


@app.command(epilog="Example: lorikeet adapters check ./my-peft-output --base ./my-model")
def check(
    path: Annotated[Path, typer.Argument(help="Folder that PEFT's save_pretrained wrote.")],
    base: BaseName = "smollm2-135m-instruct",
    max_rank: MaxRank = 64,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Print everything that is wrong with an adapter, with remedies; exit 1 if it is refused."""
    from dataclasses import asdict

    from registry.bases import resolve_base
    from registry.preflight import Limits, check_adapter
    from registry.settings import RegistrySettings

    with _progress() as on_progress:
        found = resolve_base(base, RegistrySettings(), on_progress)
    problems = check_adapter(path, found, Limits(max_rank=max_rank, strict_tokenizer=strict))
    if as_json:
        print_json([asdict(problem) for problem in problems])
    else:
        _print_problems(problems)
    if any(problem.severity == "error" for problem in problems):
        raise typer.Exit(1)
    if not as_json:
        Console().print(f"{path} can be served on {found.id}", highlight=False)


@app.command(epilog="Example: lorikeet adapters verify titulares@3")
def verify(which: Which) -> None:
    """Read a version's files again and compare them with what was published."""
    from registry.store import Registry

    reference = Reference.parse(which)
    with Registry.open() as registry:
        version = registry.verify(reference)
    Console().print(f"{version.reference} is whole, {version.digest}", highlight=False)


def _one_version(which: str, verb: str) -> tuple[str, int]:
    reference = Reference.parse(which)
    if reference.version is None:
        raise UsageError(
            f"{which} does not say which version to {verb}",
            remedy=f"write {reference.name}@VERSION: lorikeet adapters show {reference.name}",
        )
    return reference.name, reference.version


def _print_problems(problems: "Sequence[Problem]") -> None:
    """One a line, with its remedy: nothing is wrapped, so that lines can be searched."""
    from rich.text import Text

    console = Console()
    for problem in problems:
        style = "bold red" if problem.severity == "error" else "bold yellow"
        line = Text.assemble(
            (problem.severity, style), f" {problem.code}: {problem.message} → {problem.remedy}"
        )
        console.print(line, soft_wrap=True)


def _say_quarantine(version: "Version", console: Console) -> None:
    from rich.text import Text

    line = Text.assemble(
        ("quarantined", "bold red"),
        f" {version.reference}: {version.quarantine} → once that is mended: "
        f"lorikeet adapters release {version.reference}",
    )
    console.print(line, soft_wrap=True)


def _say_alias(version: "Version", alias: str) -> None:
    Console().print(f"{version.name}@{alias} is now {version.reference}", highlight=False)


@contextmanager
def _progress() -> "Iterator[OnProgress]":
    """A bar on standard error that appears when there is something to wait for."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0, visible=False)
        yield lambda doing, done: bar.update(task, description=doing, completed=done, visible=True)
