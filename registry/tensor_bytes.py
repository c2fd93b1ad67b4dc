"""Tensors' raw bytes, read a piece at a time: are all finite and sane, are all zero?"""

from dataclasses import dataclass
from pathlib import Path

from registry.tensor_header import Tensor

PIECE_BYTES = 512 << 10
LARGE = 2.0**16
"""A weight of this size overflows half precision and, multiplied out, the engine's activations."""


@dataclass(frozen=True, slots=True)
class Bits:
    """How a floating-point type keeps its exponent: an element's bits are viewed as numpy's `view`.

    `mask` selects the exponent: all ones is infinite or NaN, from `large` on it is at least LARGE.
    """

    view: str
    mask: int
    large: int


_BITS = {
    "BF16": Bits("uint16", 0x7F80, (127 + 16) << 7),
    "F16": Bits("uint16", 0x7C00, 0x7C00),  # the largest is 65504
    "F32": Bits("uint32", 0x7F800000, (127 + 16) << 23),
    "F64": Bits("uint64", 0x7FF0000000000000, (1023 + 16) << 52),
}


@dataclass(frozen=True, slots=True)
class Values:
    """What the elements of one tensor are: counts of NaN or infinite ones, of finite large ones."""

    not_finite: int
    large: int
    zero: bool


def scan(path: Path, tensor: Tensor) -> Values:
    """Look at every element of `tensor` in the safetensors file `path`.

    Its type must be one of FLOAT_TYPES. Holds a few `PIECE_BYTES` at a time. Raises OSError, or
    EOFError where the file ends inside the tensor.
    """
    import numpy as np  # here, so that looking at the registry does not wait for it

    bits = _BITS[tensor.dtype]
    view = np.dtype(bits.view)
    one, mask, large = view.type(1), view.type(bits.mask), view.type(bits.large)
    not_finite, above, zero = 0, 0, True
    with path.open("rb") as file:
        file.seek(tensor.begin)
        left = tensor.end - tensor.begin
        while left:
            piece = file.read(min(left, PIECE_BYTES))
            if len(piece) < min(left, PIECE_BYTES):
                raise EOFError(f"{path.name} ends inside {tensor.name}")
            left -= len(piece)
            elements = np.frombuffer(piece, dtype=view)
            exponents = elements & mask
            if exponents.max() >= large:
                infinite = int(np.count_nonzero(exponents == mask))
                not_finite += infinite
                above += int(np.count_nonzero(exponents >= large)) - infinite
            zero = zero and not np.any(elements << one)  # whatever the sign
    return Values(not_finite, above, zero)
