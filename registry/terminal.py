"""What commands share: JSON for programs, and one clear error with its remedy and exit code."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from registry.errors import LorikeetError


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn every expected failure of a command into its message, its remedy and its exit code.

    1 failed, 2 wrong usage, 130 Ctrl-C, 141 the reader of a pipe went away.
    """
    console = Console(stderr=True, highlight=False)
    try:
        yield
    except LorikeetError as error:
        console.print(f"[bold red]error:[/] {escape(error.message)}", soft_wrap=True)
        if error.remedy:
            console.print(f"  [cyan]→[/] {escape(error.remedy)}", soft_wrap=True)
        sys.exit(error.exit_code)
    except ValueError as error:
        from pydantic import ValidationError  # what raised it is loaded

        if not isinstance(error, ValidationError) or error.title != "RegistrySettings":
            raise
        for problem in error.errors():
            name = f"LORIKEET_{problem['loc'][0]}".upper()
            text = f"{name}: {problem['msg']} (got {problem['input']!r})"
            console.print(f"[bold red]error:[/] {escape(text)}", soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("interrupted; nothing was left half-written")
        sys.exit(130)
    except BrokenPipeError:  # `lorikeet adapters list | head`
        sys.stderr.close()
        sys.exit(141)


def run_command(command: Callable[..., Any]) -> None:
    """Run the program's one command: its arguments, its help, its clear errors."""
    app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)
    app.command()(command)
    with clear_errors():
        app()


def print_json(value: Any) -> None:
    """Print a value for programs to read."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
