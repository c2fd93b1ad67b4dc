"""Reading data, files or data sets of `datasets`, into rows that know their line."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.data.json_text import parse_json
from train.data.rejected import Rejected, Unusable, usable
from train.data.stored import stored_rows
from train.errors import DataError, DataFileMissing

OnNote = Callable[[str], None]
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")


def _nobody(_: str) -> None:
    """Told, and silent."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the data. `line` counts from 1; of data without lines it is the row's number."""

    line: int
    values: dict[str, Any]


def read_rows(path: Path, on_note: OnNote = _nobody) -> list[Row]:
    """Every row of `path`, in the file's order; blank lines are passed over.

    Raises DataFileMissing where there is no such file or its kind is not read, and DataError where
    it is empty, not UTF-8, or has malformed rows (all of them are named).
    """
    rows = usable(path, scan_rows(path, on_note))
    if not rows:
        raise no_rows(path)
    return rows


def no_rows(path: Path) -> DataError:
    """The error for data without a row."""
    return DataError(f"{path} has no rows", remedy="write one example a line")


def scan_rows(path: Path, on_note: OnNote = _nobody) -> Iterator[Row | Rejected]:
    """Each row of a file, a folder that `datasets` saved or a data set of the hub, or its fault.

    A path that is not there and reads like `organisation/name` (and `@revision`) is one of the
    hub's. Of several splits the one called train is read, which `on_note` is told. Raises as
    `read_rows` does.
    """
    if path.is_dir() or (not path.exists() and is_hub_id(path)):
        yield from _numbered(stored_rows(path, on_note))
        return
    if not path.exists():
        raise DataFileMissing(f"there is no data file {path}", remedy="check the path of --data")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        kinds = ", ".join(_READERS)
        raise DataFileMissing(
            f"{path} is not a kind of file that is read", remedy=f"name it one of {kinds}"
        )
    try:
        yield from reader(path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}", remedy="check its permissions"
        ) from error


def is_hub_id(path: Path) -> bool:
    """Whether `path` reads like `organisation/name` or `organisation/name@revision`."""
    return path.suffix.lower() not in _READERS and bool(_HUB_ID.fullmatch(str(path)))


def _lines(path: Path) -> Iterator[tuple[int, str | Rejected]]:
    """The lines of a text file; one that is not UTF-8 comes as a problem."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                yield number, Rejected(number, f"byte {error.start + 1} is not UTF-8", "UTF-8")


def _read_jsonl(path: Path) -> Iterator[Row | Rejected]:
    for number, line in _lines(path):
        if isinstance(line, Rejected):
            yield line
        elif line.strip():
            yield _parse(line, number)


def _read_json(path: Path) -> Iterator[Row | Rejected]:
    """One array of objects; a file of one object a line is read as JSONL."""
    with path.open("rb") as file:
        if not file.read(64).decode("utf-8-sig", errors="ignore").lstrip().startswith("["):
            yield from _read_jsonl(path)
            return
    try:
        text = path.read_text(encoding="utf-8-sig")
        values = parse_json(text, "not JSON", "an array of objects")
    except UnicodeDecodeError as error:
        yield Rejected(1, f"byte {error.start + 1} is not UTF-8", "UTF-8")
        return
    except Unusable as error:
        yield error.at(getattr(error.__cause__, "lineno", 1))
        return
    for number, value in enumerate(values, start=1):
        if isinstance(value, dict):
            yield Row(number, value)
        else:
            yield Rejected(number, f"{_kind(value)} in the array", "an object")


def _parse(line: str, number: int) -> Row | Rejected:
    try:
        value = parse_json(line, "not JSON", "one JSON object a line")
    except Unusable as error:
        return error.at(number)
    if not isinstance(value, dict):
        return Rejected(number, f"{_kind(value)}", "one JSON object a line")
    return Row(number, value)


def _read_csv(path: Path, delimiter: str = ",") -> Iterator[Row | Rejected]:
    """Rows under a header; a cell of `messages` holds JSON."""
    undecodable: list[Rejected] = []

    def text() -> Iterator[str]:
        for _, line in _lines(path):
            if isinstance(line, Rejected):
                undecodable.append(line)
            else:
                yield line

    reader = csv.DictReader(text(), delimiter=delimiter, restkey="", strict=True)
    line = 1
    try:
        columns = reader.fieldnames or []
        if "" in columns or len(set(columns)) != len(columns):
            yield Rejected(1, "a column without a name, or two of one name", "a header")
            return
        line = reader.line_num + 1
        for values in reader:
            if "" in values or None in values.values():
                wanted = f"{len(columns)} as in the header"
                yield Rejected(line, "another number of cells", wanted)
            else:
                yield _with_turns(line, dict(values))
            line = reader.line_num + 1
    except csv.Error as error:
        yield Rejected(line, f"not CSV: {error}", "cells, those with quotes or breaks quoted")
    yield from undecodable


def _with_turns(line: int, values: dict[str, Any]) -> Row | Rejected:
    """A row whose turns may be the text of a JSON array, as in a cell of CSV."""
    for column in ("messages", "conversations"):
        text = values.get(column)
        if isinstance(text, str) and text.strip():
            try:
                values[column] = parse_json(text, f"{column} is not JSON", "a JSON array")
            except Unusable as error:
                return error.at(line)
    return Row(line, values)


def _numbered(rows: Iterable[dict[str, Any]]) -> Iterator[Row | Rejected]:
    for number, values in enumerate(rows, start=1):
        yield _with_turns(number, values)


def _read_tsv(path: Path) -> Iterator[Row | Rejected]:
    return _read_csv(path, delimiter="\t")


def _read_parquet(path: Path) -> Iterator[Row | Rejected]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for values in batch.to_pylist():
                    number += 1
                    yield _with_turns(number, values)
    except pyarrow.ArrowException as error:
        raise DataError(
            f"{path} is not Parquet: {error}", remedy="write it again, or use JSONL"
        ) from error


def _kind(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


_READERS: dict[str, Callable[[Path], Iterator[Row | Rejected]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
}
