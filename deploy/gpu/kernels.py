"""The arithmetic that everything stands on: bfloat16 products, and bitsandbytes' NF4."""

import time

from deploy.gpu.row import Figures, NotMet

_SIZE, _SMALL = 8192, 1024
_ROUNDS = 10
_BFLOAT16_ERROR = 0.01
"""Largest error of a product, as a share of the largest value: inputs are rounded to 8 bits."""


def products() -> Figures:
    """A bfloat16 matrix product against float64's of the same inputs, and its speed."""
    import torch

    generator = torch.Generator("cuda").manual_seed(0)

    def draw(size: int) -> "torch.Tensor":
        return torch.randn(size, size, generator=generator, device="cuda", dtype=torch.bfloat16)

    a, b = draw(_SMALL), draw(_SMALL)
    exact = a.double() @ b.double()
    error = float(((a @ b).double() - exact).abs().max() / exact.abs().max())
    a, b = draw(_SIZE), draw(_SIZE)
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(_ROUNDS):
        a @ b
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - begun) / _ROUNDS
    figures = {"largest error": error, "TFLOP/s": 2 * _SIZE**3 / seconds / 1e12}
    if error > _BFLOAT16_ERROR:
        raise NotMet(f"the largest error is over {_BFLOAT16_ERROR}", figures)
    return figures


def nf4() -> Figures:
    """A weight packed by the GPU, unpacked there and on the CPU; and a product with it."""
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = torch.randn(_SMALL, _SMALL, generator=torch.Generator().manual_seed(0))
    here, here_state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    there, there_state = quantize_4bit(weight.cuda(), quant_type="nf4", compress_statistics=True)
    same = float((here == there.cpu()).float().mean())
    on_cpu = dequantize_4bit(here, here_state)
    on_gpu = dequantize_4bit(there, there_state).cpu()
    apart = float((on_cpu - on_gpu).abs().max())
    rounding = float((on_gpu - weight).abs().mean() / weight.abs().mean())
    figures = {"packed alike": same, "largest difference": apart, "rounding": rounding}
    # A value in the middle between two codes may fall to either side.
    if same < 0.999 or rounding > 0.15:
        raise NotMet("the GPU packs otherwise than the CPU", figures)
    return figures
