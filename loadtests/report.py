"""The tables of docs/benchmarks.md, made from the results in docs/benchmarks/.

    python -m loadtests.report            # after a results file was put there
    python -m loadtests.report --check    # exit code 1 where the page is not what it would be

The page says itself which table is where; what is between the two comments is replaced:

    <!-- servers.json: output -->
    …
    <!-- end -->
"""

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from loadtests.reports.tables import TABLES
from registry import UsageError
from registry.files import replacing
from registry.terminal import run_command

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
_PLACE = re.compile(r"<!-- (?P<file>[\w.-]+\.json): (?P<table>\w+) -->\n.*?<!-- end -->", re.S)


def report(
    page: Annotated[Path, typer.Option(help="The page, in Markdown.")] = PAGE,
    results: Annotated[
        Path | None, typer.Option(help="Folder of the results. [dim]named as the page[/]")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if something would change.")
    ] = False,
) -> None:
    """Make the page's tables anew from the JSON results."""
    folder = results or page.with_suffix("")
    try:
        before = page.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {page}: {error}", remedy="check --page") from error
    after = filled(before, folder)
    if before == after:
        return
    if check:
        print(f"{page} is not what its results make of it: run python -m loadtests.report")
        sys.exit(1)
    with replacing(page) as file:
        file.write(after.encode())
    print(f"{page} is made anew.")


def filled(page: str, folder: Path) -> str:
    """The page with each table as the results have it.

    Raises: UsageError where a place names a table or a file that is not there.
    """

    def table(place: re.Match[str]) -> str:
        name = place["table"]
        if name not in TABLES:
            raise UsageError(
                f"the page asks for the table {name!r}", remedy=f"choose of {', '.join(TABLES)}"
            )
        document = _read(folder / place["file"])
        try:
            made = TABLES[name](document)
        except (KeyError, TypeError, IndexError) as error:
            raise UsageError(
                f"{folder / place['file']} has not what the table {name!r} needs: {error!r}",
                remedy="use the JSON that loadtests.bench, .training_profile or .load wrote",
            ) from error
        return f"<!-- {place['file']}: {name} -->\n{made}\n<!-- end -->"

    return _PLACE.sub(table, page)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot read {path}: {error}", remedy="put the results file there"
        ) from error


def main() -> None:
    """The command line; every expected failure is one clear error."""
    run_command(report)


if __name__ == "__main__":
    main()
