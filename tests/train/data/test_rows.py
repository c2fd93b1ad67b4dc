"""Reading data files, and saying where they are wrong."""

import json
from pathlib import Path

import datasets
import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest

from train.data.rows import Row, read_rows, scan_rows
from train.errors import DataError, DataFileMissing

ROWS = [{"prompt": "¿Qué?", "completion": "Así"}, {"prompt": 'b "x", y', "completion": "c\nd"}]


def test_the_kinds_of_file_hold_the_same_rows(tmp_path: Path) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    (tmp_path / "a.jsonl").write_text("\ufeff" + "\n\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    csv = 'prompt,completion\n¿Qué?,Así\n"b ""x"", y","c\nd"\n'
    (tmp_path / "a.csv").write_text(csv, encoding="utf-8")
    (tmp_path / "a.tsv").write_text(csv.replace(",", "\t").replace("\t y", ", y"), encoding="utf-8")
    table = pyarrow.Table.from_pylist(ROWS)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet"):
        assert [row.values for row in read_rows(tmp_path / name)] == ROWS, name


def test_rows_know_their_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\n{"text": "a"}\n\n{"text": "b"}')
    assert read_rows(tmp_path / "a.jsonl") == [Row(2, {"text": "a"}), Row(4, {"text": "b"})]
    (tmp_path / "a.csv").write_text('text\n"one\ntwo"\nthree\n')
    assert [row.line for row in read_rows(tmp_path / "a.csv")] == [2, 4]


def test_messages_in_a_cell_are_json(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('messages\n"[{""role"": ""user""}]"\n')
    assert read_rows(tmp_path / "a.tsv")[0].values == {"messages": [{"role": "user"}]}
    (tmp_path / "b.tsv").write_text("messages\n[oops\n")
    with pytest.raises(DataError, match="line 2: messages is not JSON"):
        read_rows(tmp_path / "b.tsv")


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b'{"a": 1}\n{"a": \n', 2, "not JSON"),
        (b'{"a": 1}\n\n[1]\n', 3, "an array"),
        (b"null\n", 1, "null"),
        (b'{"a": 1}\n{"a": "\xe9"}\n', 2, "byte 8 is not UTF-8"),
        (b"[" * 100_000, 1, "nested too deeply"),
        (b'{"a": 1}\n{"a": ' + b"1" * 5000 + b"}\n", 2, "a number of too many digits"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, content: bytes, line: int, message: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_rows(tmp_path / "a.jsonl")
    assert [problem.line for problem in caught.value.problems] == [line]
    assert message in caught.value.message
    assert "expected" in caught.value.message


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"prompt,completion\na,b\nc\n", 3),
        (b"prompt,completion\na,b,c\n", 2),
        (b"prompt,prompt\na,b\n", 1),
        (b'prompt,completion\na,"b\n', 2),
        (b"prompt,completion\na,\xe9\n", 2),
    ],
)
def test_a_bad_record_is_named(tmp_path: Path, content: bytes, line: int) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_rows(tmp_path / "a.csv")
    assert [problem.line for problem in caught.value.problems] == [line]


def test_all_bad_rows_are_counted_and_the_first_are_shown(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("oops\n" * 30)
    with pytest.raises(DataError) as caught:
        read_rows(tmp_path / "a.jsonl")
    assert len(caught.value.problems) == 30
    assert "30 rows" in caught.value.message
    assert "and 20 more" in caught.value.message


def test_no_file_and_no_rows(tmp_path: Path) -> None:
    with pytest.raises(DataFileMissing, match="no data file"):
        read_rows(tmp_path / "none.jsonl")
    with pytest.raises(DataFileMissing, match="is a folder"):
        read_rows(tmp_path)
    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(DataFileMissing, match="not a kind of file") as caught:
        read_rows(tmp_path / "a.docx")
    assert ".jsonl" in str(caught.value.remedy)
    assert caught.value.exit_code == 2
    for name in ("a.jsonl", "a.csv", "a.json"):
        (tmp_path / name).write_text("\n")
        with pytest.raises(DataError, match="no rows") as empty:
            read_rows(tmp_path / name)
        assert empty.value.exit_code == 1
    (tmp_path / "a.parquet").write_text("not parquet at all")
    with pytest.raises(DataError, match="not Parquet"):
        read_rows(tmp_path / "a.parquet")


def test_a_folder_that_datasets_saved(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "one"))
    assert [(row.line, row.values) for row in read_rows(tmp_path / "one")] == [
        (1, ROWS[0]),
        (2, ROWS[1]),
    ]
    splits = {"test": datasets.Dataset.from_list(ROWS[1:])}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "test"))
    notes: list[str] = []
    assert [row.values for row in read_rows(tmp_path / "test", notes.append)] == ROWS[1:]
    splits["train"] = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "both"))
    assert [row.values for row in read_rows(tmp_path / "both", notes.append)] == ROWS
    assert notes == [
        f"{tmp_path / 'test'}: the split test is read",
        f"{tmp_path / 'both'}: the split train is read, not test",
    ]
    splits["other"] = splits.pop("train")
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "neither"))
    with pytest.raises(DataError, match="no split called train, but test, other"):
        read_rows(tmp_path / "neither")


def test_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def load(name: str, revision: str | None) -> datasets.DatasetDict:
        asked.append((name, revision))
        return datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS))

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.chdir(tmp_path)
    for name in ("org/data-set", "org/data-set@v1.0"):
        assert [row.values for row in read_rows(Path(name))] == ROWS
    assert asked == [("org/data-set", None), ("org/data-set", "v1.0")]
    with pytest.raises(DataFileMissing, match=r"no data file data/rows\.jsonl"):
        read_rows(Path("data/rows.jsonl"))


def test_no_network_is_told_with_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataFileMissing, match="no file org/nothing-here, and no data set"):
        read_rows(Path("org/nothing-here"))


def test_turns_in_a_cell_of_conversations_are_json(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('conversations\n"[{""from"": ""human""}]"\n')
    assert read_rows(tmp_path / "a.csv")[0].values == {"conversations": [{"from": "human"}]}


def test_scanning_goes_on_after_a_bad_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\noops\n{"text": "b"}\n')
    found = list(scan_rows(tmp_path / "a.jsonl"))
    assert [item.line for item in found] == [1, 2, 3]
    assert [isinstance(item, Row) for item in found] == [True, False, True]
