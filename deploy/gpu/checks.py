"""The checks, in their order: what each needs, how long it may take, and where it is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """`function` (`module:name`) gives the figures, or raises Skipped or NotMet."""

    name: str
    what: str
    needs: tuple[str, ...]
    seconds: float
    function: str


_PEFT = ("torch", "transformers", "peft")
_OURS = ("cuda", "lorikeet")

CHECKS = (
    Check(
        "products",
        "bfloat16 products against float64",
        ("cuda", "bfloat16"),
        60,
        "deploy.gpu.kernels:products",
    ),
    Check(
        "nf4",
        "bitsandbytes' NF4 on the GPU against the CPU's",
        ("cuda", "bitsandbytes"),
        60,
        "deploy.gpu.kernels:nf4",
    ),
    Check(
        "lora",
        "PEFT trains an adapter of a tiny Llama",
        _PEFT,
        90,
        "deploy.gpu.plain_lora:unquantised",
    ),
    Check(
        "qlora",
        "PEFT trains an adapter of a tiny Llama in NF4",
        (*_PEFT, "bitsandbytes"),
        90,
        "deploy.gpu.plain_lora:nf4",
    ),
    Check(
        "train-bf16",
        "lorikeet train, base in 16 bits",
        _OURS,
        120,
        "deploy.gpu.training:unquantised",
    ),
    Check(
        "train-nf4",
        "lorikeet train, base in NF4",
        (*_OURS, "bitsandbytes"),
        120,
        "deploy.gpu.training:nf4",
    ),
    Check(
        "peak",
        "the planner's peak against the measured one",
        (*_OURS, "bitsandbytes"),
        120,
        "deploy.gpu.training:peak",
    ),
    Check(
        "parity",
        "served log-probabilities against the trained model's",
        (*_OURS, "vllm"),
        180,
        "deploy.gpu.serving:parity",
    ),
    Check(
        "isolation",
        "the base and 4 adapters, alone and mixed; throughput",
        (*_OURS, "vllm"),
        180,
        "deploy.gpu.serving:isolation",
    ),
    Check(
        "bench", "ours beside stock vLLM, quickly", (*_OURS, "vllm"), 300, "deploy.gpu.bench:quick"
    ),
)
