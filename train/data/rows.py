"""Reading data files: JSONL, JSON, CSV, TSV and Parquet into rows that know their line."""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.errors import DataError, DataFileMissing, RowProblem


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a data file. `line` counts from 1; in Parquet it is the number of the row."""

    line: int
    values: dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Every row of `path`, in the file's order; blank lines are passed over.

    Raises DataFileMissing where there is no such file or its kind is not read, and DataError where
    it is empty, not UTF-8, or has malformed rows (all of them are named).
    """
    if not path.exists():
        raise DataFileMissing(f"there is no data file {path}", remedy="check the path of --data")
    if path.is_dir():
        raise DataFileMissing(f"{path} is a folder", remedy="name one file in it")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        kinds = ", ".join(_READERS)
        raise DataFileMissing(
            f"{path} is not a kind of file that is read", remedy=f"name it one of {kinds}"
        )
    rows: list[Row] = []
    problems: list[RowProblem] = []
    try:
        for item in reader(path):
            if isinstance(item, Row):
                rows.append(item)
            else:
                problems.append(item)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}", remedy="check its permissions"
        ) from error
    if problems:
        raise DataError.of_rows(path, problems)
    if not rows:
        raise DataError(f"{path} has no rows", remedy="write one example a line")
    return rows


def _lines(path: Path) -> Iterator[tuple[int, str | RowProblem]]:
    """The lines of a text file; one that is not UTF-8 comes as a problem."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                yield number, RowProblem(number, f"byte {error.start + 1} is not UTF-8", "UTF-8")


def _read_jsonl(path: Path) -> Iterator[Row | RowProblem]:
    for number, line in _lines(path):
        if isinstance(line, RowProblem):
            yield line
        elif line.strip():
            yield _parse(line, number)


def _read_json(path: Path) -> Iterator[Row | RowProblem]:
    """One array of objects; a file of one object a line is read as JSONL."""
    with path.open("rb") as file:
        if not file.read(64).decode("utf-8-sig", errors="ignore").lstrip().startswith("["):
            yield from _read_jsonl(path)
            return
    try:
        values = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        line = getattr(error, "lineno", 1)
        yield RowProblem(line, f"not JSON ({error})", "an array of objects")
        return
    for number, value in enumerate(values, start=1):
        if isinstance(value, dict):
            yield Row(number, value)
        else:
            yield RowProblem(number, f"{_kind(value)} in the array", "an object")


def _parse(line: str, number: int) -> Row | RowProblem:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        return RowProblem(
            number, f"not JSON: {error.msg} at column {error.colno}", "one JSON object a line"
        )
    except RecursionError:
        return RowProblem(number, "JSON nested too deeply", "one JSON object a line")
    if not isinstance(value, dict):
        return RowProblem(number, f"{_kind(value)}", "one JSON object a line")
    return Row(number, value)


def _read_csv(path: Path, delimiter: str = ",") -> Iterator[Row | RowProblem]:
    """Rows under a header; a cell of `messages` holds JSON."""
    undecodable: list[RowProblem] = []

    def text() -> Iterator[str]:
        for _, line in _lines(path):
            if isinstance(line, RowProblem):
                undecodable.append(line)
            else:
                yield line

    reader = csv.DictReader(text(), delimiter=delimiter, restkey="", strict=True)
    line = 1
    try:
        columns = reader.fieldnames or []
        if "" in columns or len(set(columns)) != len(columns):
            yield RowProblem(1, "a column without a name, or two of one name", "a header")
            return
        line = reader.line_num + 1
        for values in reader:
            if "" in values or None in values.values():
                wanted = f"{len(columns)} as in the header"
                yield RowProblem(line, "another number of cells", wanted)
            else:
                yield _with_messages(line, dict(values))
            line = reader.line_num + 1
    except csv.Error as error:
        yield RowProblem(line, f"not CSV: {error}", "cells, those with quotes or breaks quoted")
    yield from undecodable


def _with_messages(line: int, values: dict[str, Any]) -> Row | RowProblem:
    text = values.get("messages")
    if isinstance(text, str):
        try:
            values["messages"] = json.loads(text)
        except json.JSONDecodeError as error:
            return RowProblem(line, f"messages is not JSON: {error.msg}", "a JSON array")
    return Row(line, values)


def _read_tsv(path: Path) -> Iterator[Row | RowProblem]:
    return _read_csv(path, delimiter="\t")


def _read_parquet(path: Path) -> Iterator[Row | RowProblem]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for values in batch.to_pylist():
                    number += 1
                    yield _with_messages(number, values)
    except pyarrow.ArrowException as error:
        raise DataError(
            f"{path} is not Parquet: {error}", remedy="write it again, or use JSONL"
        ) from error


def _kind(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


_READERS: dict[str, Callable[[Path], Iterator[Row | RowProblem]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
}
