"""The scan of raw values, compared with numpy's own arithmetic for every type."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from registry import tensor_bytes
from registry.tensor_bytes import Values, scan
from registry.tensor_header import Tensor

WORDS = {"BF16": np.uint16, "F16": np.uint16, "F32": np.uint32, "F64": np.uint64}
FLOATS = {"F16": np.float16, "F32": np.float32, "F64": np.float64}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scan") / "raw"


def scanned(path: Path, dtype: str, content: bytes) -> Values:
    path.write_bytes(b"head" + content)
    (values,) = scan(path, [Tensor("t", dtype, (-1,), 4, 4 + len(content))])
    return values


def as_floats(dtype: str, words: NDArray[np.unsignedinteger]) -> NDArray[np.floating]:
    if dtype == "BF16":
        return (words.astype(np.uint32) << 16).view(np.float32)
    return words.view(FLOATS[dtype])


@settings(deadline=None)
@given(st.sampled_from(sorted(WORDS)), st.lists(st.integers(0, 2**64 - 1), max_size=40))
def test_it_counts_as_numpy_does(path: Path, dtype: str, bits: list[int]) -> None:
    word = WORDS[dtype]
    words = np.array([b & int(np.iinfo(word).max) for b in bits], dtype=word)
    with np.errstate(invalid="ignore"):  # the conversion of a signalling NaN
        floats = as_floats(dtype, words).astype(np.float64)
    finite = np.isfinite(floats)
    assert scanned(path, dtype, words.tobytes()) == Values(
        not_finite=int((~finite).sum()),
        large=int((np.abs(floats[finite]) >= tensor_bytes.LARGE).sum()),
        zero=not np.count_nonzero(floats),
    )


@pytest.mark.parametrize("special", [0x7F80, 0xFF80, 0x7FC0, 0x7F81])
def test_bfloat16_specials_are_found(path: Path, special: int) -> None:
    assert scanned(path, "BF16", struct.pack("<3H", 0x3F80, special, 0)).not_finite == 1


def test_a_fault_in_a_later_piece_is_found(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_bytes, "PIECE_BYTES", 64)
    values = np.zeros(1000, dtype=np.float32)
    values[999] = np.inf
    assert scanned(path, "F32", values.tobytes()) == Values(1, 0, False)


def test_a_file_that_shrank_is_an_error(path: Path) -> None:
    path.write_bytes(b"headonly")
    with pytest.raises(EOFError):
        list(scan(path, [Tensor("t", "F32", (100,), 4, 404)]))


def test_negative_zero_is_zero(path: Path) -> None:
    assert scanned(path, "F32", np.full(3, -0.0, dtype=np.float32).tobytes()).zero
