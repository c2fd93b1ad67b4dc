"""What the checks found, as a table for the terminal, as JSON, and as a section of docs/gpu.md."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.gpu.facilities import Facilities
from deploy.gpu.row import Row

if TYPE_CHECKING:
    from rich.table import Table

PAGE = Path(__file__).parents[2] / "docs" / "gpu.md"
_BEGIN, _END = "<!-- begin gpu-check -->", "<!-- end gpu-check -->"
_COLORS = {"passed": "green", "failed": "red", "skipped": "yellow"}


@dataclass(frozen=True, slots=True)
class Report:
    """All rows, and the machine that they are of."""

    machine: Facilities
    rows: Sequence[Row]

    @property
    def failed(self) -> bool:
        """Whether a check has failed; skipped ones have not."""
        return any(row.status == "failed" for row in self.rows)

    @property
    def title(self) -> str:
        """Card, driver, date and versions in one line."""
        machine = self.machine
        card = "no GPU"
        if machine.card:
            several = f"{machine.gpus} × " if machine.gpus > 1 else ""
            card = (
                f"{several}{machine.card} ({machine.memory_gib:g} GiB, {machine.capability}), "
                f"driver {machine.driver}, CUDA {machine.cuda}"
            )
        versions = ", ".join(f"{name} {found}" for name, found in machine.versions.items())
        return f"{card}; {machine.date}; Python {machine.python}, {versions}"

    def table(self) -> "Table":
        """For a terminal."""
        from rich.markup import escape
        from rich.table import Table

        table = Table(title=self.title, title_justify="left")
        for column in ("check", "what is tried", "result", "seconds", "figures, or why not"):
            table.add_column(column, justify="right" if column == "seconds" else "left")
        for row in self.rows:
            status = f"[{_COLORS[row.status]}]{row.status}[/]"
            seconds = f"{row.seconds:.0f}" if row.seconds else ""
            table.add_row(row.name, row.what, status, seconds, escape(row.told))
        return table

    def markdown(self) -> str:
        """For a page."""
        lines = [
            self.title + ".",
            "",
            "| check | what is tried | result | seconds | figures, or why not |",
            "|---|---|---|---:|---|",
        ]
        for row in self.rows:
            told = row.told.replace("|", "\\|")
            lines.append(
                f"| `{row.name}` | {row.what} | {row.status} | {row.seconds:.0f} | {told} |"
            )
        return "\n".join(lines)

    def record(self, page: Path = PAGE) -> None:
        """Put the table into its place in `page`. Raises ValueError where it has none."""
        text = page.read_text(encoding="utf-8")
        before, begin, rest = text.partition(_BEGIN)
        _, end, after = rest.partition(_END)
        if not (begin and end):
            raise ValueError(f"{page} has no place for it: {_BEGIN} … {_END}")
        page.write_text(f"{before}{begin}\n{self.markdown()}\n{end}{after}", encoding="utf-8")

    def write(self, path: Path) -> None:
        """As JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [row.as_dict() for row in self.rows]
        document = {"machine": self.machine.as_dict(), "rows": rows}
        path.write_text(json.dumps(document, indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Report":
        """What `write` has written. Raises OSError, ValueError or TypeError for another file."""
        document: dict[str, Any] = json.loads(path.read_text())
        if not isinstance(document, dict) or not {"machine", "rows"} <= document.keys():
            raise ValueError("it has no results of gpu-check")
        return cls(Facilities(**document["machine"]), [Row(**row) for row in document["rows"]])
