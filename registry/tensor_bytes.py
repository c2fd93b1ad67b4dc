"""Tensors' raw bytes, read a piece at a time: are all finite and sane, are all zero?

Without its sign, a floating-point number is ordered as the integer of the same bits is: one look at
the largest of a piece answers all three.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from registry.tensor_header import Tensor

PIECE_BYTES = 512 << 10
LARGE = 2.0**16
"""A weight of this size overflows half precision and, multiplied out, the engine's activations."""


@dataclass(frozen=True, slots=True)
class Bits:
    """A floating-point type's bits, viewed as numpy's `view`, without their sign.

    From `large` on it is at least LARGE, from `infinite` on infinite or NaN.
    """

    view: str
    infinite: int
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


def scan(path: Path, tensors: Iterable[Tensor]) -> Iterator[Values]:
    """Look at every element of each of the `tensors` in the safetensors file `path`, in turn.

    Their types must be among FLOAT_TYPES. Holds `PIECE_BYTES`. Raises OSError, or EOFError where
    the file ends inside a tensor.
    """
    import numpy as np  # here, so that looking at the registry does not wait for it

    piece = memoryview(bytearray(PIECE_BYTES))
    with path.open("rb", buffering=0) as file:
        for tensor in tensors:
            bits = _BITS[tensor.dtype]
            view = np.dtype(bits.view)
            unsigned, large = view.type(np.iinfo(view).max >> 1), view.type(bits.large)
            not_finite, above, largest = 0, 0, 0
            file.seek(tensor.begin)
            for start in range(tensor.begin, tensor.end, PIECE_BYTES):
                part = piece[: min(PIECE_BYTES, tensor.end - start)]
                if file.readinto(part) != len(part):
                    raise EOFError(f"{path.name} ends inside {tensor.name}")
                elements = np.frombuffer(part, dtype=view)
                np.bitwise_and(elements, unsigned, out=elements)
                top = elements.max()
                largest = max(largest, int(top))
                if top >= large:
                    infinite = int(np.count_nonzero(elements >= view.type(bits.infinite)))
                    not_finite += infinite
                    above += int(np.count_nonzero(elements >= large)) - infinite
            yield Values(not_finite, above, largest == 0)
