"""The header of a safetensors file, read with nothing but json: names, types, shapes, offsets.

A file is 8 bytes (length of the header, little endian), the header (JSON), then the data.
"""

import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeGuard

MAX_HEADER_BYTES = 100_000_000
"""What the safetensors format allows; no adapter's header comes near."""

ITEM_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I8": 8,
    "U8": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}

FLOAT_TYPES = frozenset({"BF16", "F16", "F32", "F64"})
"""The types that weights may have."""


class BadHeader(Exception):
    """The file is not a whole safetensors file. `code` says in which way."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: `begin` and `end` are byte offsets from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def elements(self) -> int:
        """Number of elements; 1 for a scalar."""
        count = 1
        for size in self.shape:
            count *= size
        return count


def read_header(path: Path, *, max_header_bytes: int = MAX_HEADER_BYTES) -> dict[str, Tensor]:
    """The tensors of the safetensors file `path` by name, checked to fill the file exactly.

    Raises BadHeader where the file is empty, truncated, padded, or its header is not one; OSError
    where it cannot be read.
    """
    with path.open("rb") as file:
        return parse_header(file, os.fstat(file.fileno()).st_size, max_header_bytes)


def parse_header(
    file: BinaryIO, size: int, max_header_bytes: int = MAX_HEADER_BYTES
) -> dict[str, Tensor]:
    """As `read_header`, of an open file of `size` bytes standing at its start."""
    if size == 0:
        raise BadHeader("weights-empty", "the file is empty")
    lead = file.read(8)
    if len(lead) < 8:
        raise BadHeader("weights-truncated", f"the file ends after {size} bytes")
    (length,) = struct.unpack("<Q", lead)
    if length > max_header_bytes:
        raise BadHeader(
            "weights-header-size", f"the header claims {length} bytes (limit {max_header_bytes})"
        )
    if length + 8 > size:
        raise BadHeader(
            "weights-truncated", f"the header should take {length} bytes, the file has {size}"
        )
    try:
        entries = json.loads(file.read(length).decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadHeader("weights-header", f"the header is not JSON: {error}") from error
    if not isinstance(entries, dict):
        raise BadHeader("weights-header", "the header is not a JSON object")
    _check_metadata(entries.pop("__metadata__", None))
    tensors = {name: _tensor(name, entry, 8 + length) for name, entry in entries.items()}
    _check_extent(tensors, 8 + length, size)
    return tensors


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is a number in Python only")


def _check_metadata(metadata: object) -> None:
    """Readers in other languages refuse the whole file for what it says of itself."""
    if metadata is None:
        return
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise BadHeader("weights-header", "the header's __metadata__ is not texts by name")
    try:
        "".join([*metadata, *metadata.values()]).encode()
    except UnicodeEncodeError as error:
        raise BadHeader("weights-header", "the header's __metadata__ is not Unicode") from error


def _tensor(name: str, entry: object, start: int) -> Tensor:
    if not isinstance(entry, dict):
        raise BadHeader("weights-header", f"the entry of {name} is not a JSON object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in ITEM_BITS:
        raise BadHeader("weights-header", f"{name} has an unknown type, {str(dtype)[:40]!r}")
    if not _is_sizes(shape) or not _is_sizes(offsets) or len(offsets) != 2:
        raise BadHeader("weights-header", f"the shape or the offsets of {name} are not sizes")
    tensor = Tensor(name, dtype, tuple(shape), start + offsets[0], start + offsets[1])
    if tensor.elements * ITEM_BITS[dtype] != (tensor.end - tensor.begin) * 8:
        raise BadHeader(
            "weights-header", f"{name}: {dtype} {list(shape)} does not take the bytes it is given"
        )
    return tensor


def _is_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 2**62 for item in value
    )


def _check_extent(tensors: dict[str, Tensor], start: int, size: int) -> None:
    position = start
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.begin, tensor.end)):
        if tensor.begin != position:
            raise BadHeader("weights-header", f"{tensor.name} overlaps another tensor or a gap")
        position = tensor.end
    if position > size:
        raise BadHeader(
            "weights-truncated", f"the tensors end at byte {position}, the file at {size}"
        )
    if position < size:
        raise BadHeader(
            "weights-trailing", f"{size - position} bytes follow the last tensor: not safetensors"
        )
