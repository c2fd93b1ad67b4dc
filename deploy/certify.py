"""`lorikeet adapters certify`: a server, where none is named, and the trained model beside it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from registry.cli import AsJson, Which
from registry.terminal import print_json
from train.evaluation.options import BasePlace, HeldOut

if TYPE_CHECKING:
    from rich.console import Console

    from registry import Base, RegistrySettings, Version
    from train.handoff.certificate import Certificate
    from train.handoff.certify_version import OpenServer
    from train.handoff.score_server import ScoreServer
    from train.progress import Reporter

LOSSES = {
    "nf4": "on the NF4 base",
    "int8": "on the int8 base",
    "unquantised": "on the unquantised base",
    "merged": "merged into the weights it was trained on",
    "served": "as served",
}


def certify(
    reference: Which,
    data: HeldOut = None,
    rows: Annotated[
        int, typer.Option(min=1, help="At most so many held-out rows, drawn by seed.")
    ] = 32,
    base: BasePlace = None,
    url: Annotated[
        str | None,
        typer.Option(
            help="A running server of the same registry; default: one is started for this.",
            metavar="URL",
        ),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            help="An admin key of that server, where it has keys.", envvar="OPENAI_API_KEY"
        ),
    ] = None,
    save: Annotated[
        bool, typer.Option("--save/--no-save", help="Record the certificate on the version.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Prove that a version is served as it was trained.

    A server and PEFT read the same held-out answers token by token: their log-probabilities may
    differ by rounding only, and with the adapter they differ from the base's. The held-out loss on
    the quantised base, on the unquantised one and merged tells what serving on another base costs.
    The certificate is kept on the version; with LORIKEET_REQUIRE_CERTIFICATE the gate of `lorikeet
    adapters promote` asks for one that has passed.

    A server that is started for this takes its settings from LORIKEET_SERVE_…, as any other.

    \b
    Examples:
      lorikeet adapters certify titulares
      lorikeet adapters certify titulares@3 --data held-out.jsonl --rows 100
      lorikeet adapters certify titulares@3 --url http://127.0.0.1:8000 --json

    Exit codes: 0 passed, 1 not passed or failed, 2 wrong usage, 130 stopped by Ctrl-C.
    """
    from rich.console import Console

    from train.hardware import yield_idle_cores
    from train.progress import reporting

    yield_idle_cores()
    from registry import RegistrySettings
    from train.handoff.certify_version import CertifyRequest, certify_version

    settings = RegistrySettings()
    request = CertifyRequest(reference, data, rows, base, save, settings)
    with reporting(Console(stderr=True)) as reporter:
        server = _named(url, api_key) if url else _own(settings, reporter)
        version, certificate = certify_version(request, server, reporter)
    if as_json:
        print_json({"reference": version.reference, "certificate": certificate.as_dict()})
    else:
        _show(Console(), version, certificate)
    if not certificate.passed:
        raise typer.Exit(1)


def _named(url: str, api_key: str | None) -> "OpenServer":
    @contextmanager
    def opened(_: "Base", __: "Version") -> "Iterator[ScoreServer]":
        from train.handoff.score_server import ScoreServer

        yield ScoreServer(url, api_key)

    return opened


def _own(settings: "RegistrySettings", reporter: "Reporter") -> "OpenServer":
    """A server on the same data folder that ends when it has been asked."""

    @contextmanager
    def opened(base: "Base", version: "Version") -> "Iterator[ScoreServer]":
        from registry import DEFAULT_BASE, Registry
        from serve.child import child_server
        from train.handoff.admin_key import admin_key
        from train.handoff.score_server import ScoreServer

        reporter.note("starting a server")
        log = settings.home / "certify-server.log"
        named = base.id if base.id == DEFAULT_BASE else str(base.path)
        options = ["--base", named]
        env = {"LORIKEET_HOME": str(settings.home)}
        with (
            Registry.open(settings) as registry,
            admin_key(registry) as secret,
            child_server(options, log, env=env) as server,
        ):
            reporter.note(f"asking {server.url} (its log: {log})")
            yield ScoreServer(server.url, secret)

    return opened


def _show(console: "Console", version: "Version", certificate: "Certificate") -> None:
    from rich.table import Table

    agreement, tolerance = certificate.agreement, certificate.tolerance
    engine = ", ".join(f"{name} {value}" for name, value in certificate.engine.items())
    console.print(
        f"{version.reference} on {engine}: {agreement.tokens} tokens of "
        f"{certificate.rows} held-out answers",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("log-probabilities")
    table.add_column("found", justify="right")
    table.add_column("bound", justify="right")
    for title, found, bound in (
        ("served and PEFT on the same base: largest difference", agreement.max, tolerance.max),
        ("  mean difference", agreement.mean, tolerance.mean),
    ):
        table.add_row(title, f"{found:.2g}", f"≤ {bound:g}")
    table.add_row("  likeliest token the same", f"{agreement.top1:.1%}", f"≥ {tolerance.top1:.0%}")
    table.add_row(
        "served with the adapter and without: mean difference",
        f"{certificate.effect:.2g}",
        f"> {tolerance.mean:g}",
    )
    table.add_row("served and as trained: mean difference", f"{certificate.trained.mean:.2g}")
    table.add_row("  likeliest token the same", f"{certificate.trained.top1:.1%}")
    for name, loss in certificate.losses.items():
        table.add_row(f"held-out loss, {LOSSES.get(name, name)}", f"{loss:.4f}")
    console.print(table)
    for problem in certificate.problems:
        console.print(f"  {problem}", style="red", highlight=False, markup=False)
    verdict = "is served as it was trained" if certificate.passed else "has not passed"
    console.print(f"{version.reference} {verdict}", style="bold", highlight=False)
