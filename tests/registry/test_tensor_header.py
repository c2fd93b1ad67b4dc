"""Reading safetensors headers: agreement with the library, and calm under any bytes."""

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save, save_file

from registry.tensor_header import BadHeader, parse_header, read_header


def parse(content: bytes) -> dict[str, Any]:
    return parse_header(io.BytesIO(content), len(content))


def file_of(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_it_reads_what_the_library_writes(tmp_path: Path) -> None:
    tensors = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.zeros((0, 4), dtype=np.float16),
        "c": np.array(2.5),
    }
    path = tmp_path / "x.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    header = read_header(path)
    content = path.read_bytes()
    assert header.keys() == tensors.keys()
    for name, tensor in header.items():
        assert tensor.shape == tensors[name].shape
        assert tensor.elements == tensors[name].size
        assert content[tensor.begin : tensor.end] == tensors[name].tobytes()


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
        st.lists(st.integers(0, 4), max_size=3),
        max_size=5,
    )
)
def test_shapes_agree_with_the_library(shapes: dict[str, list[int]]) -> None:
    content = save({name: np.ones(shape, dtype=np.float32) for name, shape in shapes.items()})
    assert {name: list(tensor.shape) for name, tensor in parse(content).items()} == shapes


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        parse(content)
    except BadHeader as error:
        assert error.code.startswith("weights-")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.text(max_size=5),
        json_values
        | st.fixed_dictionaries(
            {
                "dtype": st.just("F32") | json_values,
                "shape": json_values,
                "data_offsets": json_values,
            }
        ),
        max_size=3,
    ),
    st.binary(max_size=16),
)
def test_any_json_header_is_read_or_refused(header: dict[str, Any], data: bytes) -> None:
    try:
        parse(file_of(header, data))
    except BadHeader as error:
        assert str(error)


@given(st.integers(0, 400), st.integers(0, 255))
def test_one_changed_byte_is_never_misread(at: int, value: int) -> None:
    """What is still read is within the file and takes the bytes that its type and shape need."""
    whole = save({"a": np.ones((3, 4), np.float32), "b": np.ones(2, np.float16)})
    content = bytearray(whole)
    content[at % len(content)] = value
    try:
        tensors = parse(bytes(content))
    except BadHeader:
        return
    assert sum(tensor.end - tensor.begin for tensor in tensors.values()) <= len(content)
    assert all(0 <= tensor.begin <= tensor.end <= len(content) for tensor in tensors.values())


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "weights-empty"),
        (b"\x01\x02", "weights-truncated"),
        (struct.pack("<Q", 1 << 60), "weights-header-size"),
        (struct.pack("<Q", 5000) + b"{}", "weights-truncated"),
        (file_of(b"not json"), "weights-header"),
        (file_of(b"[" * 5000), "weights-header"),
        (file_of([1]), "weights-header"),
        (file_of({"a": 3}), "weights-header"),
        (file_of({"a": entry(dtype="F33")}, bytes(8)), "weights-header"),
        (file_of({"a": entry(shape=[-2])}, bytes(8)), "weights-header"),
        (file_of({"a": entry(shape=[True, 2])}, bytes(8)), "weights-header"),
        (file_of({"a": entry(shape=[3])}, bytes(8)), "weights-header"),
        (file_of({"a": entry(data_offsets=[8, 0])}, bytes(8)), "weights-header"),
        (file_of({"a": entry(data_offsets=[8, 16])}, bytes(16)), "weights-header"),
        (file_of({"a": entry(), "b": entry()}, bytes(8)), "weights-header"),
        (file_of({"a": entry()}, bytes(7)), "weights-truncated"),
        (file_of({"a": entry()}, bytes(9)), "weights-trailing"),
    ],
)
def test_each_fault_has_its_code(content: bytes, code: str) -> None:
    with pytest.raises(BadHeader) as caught:
        parse(content)
    assert caught.value.code == code


def test_the_library_refuses_what_is_refused_here_for_its_extent() -> None:
    """The check is not stricter than the format: the library says no to the same files."""
    for content in (file_of({"a": entry()}, bytes(9)), file_of({"a": entry(shape=[3])}, bytes(8))):
        with pytest.raises(Exception, match=r".+"):
            load(content)
