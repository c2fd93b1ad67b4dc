"""Preflight where nothing is refused: good adapters, warnings, and what is told when."""

import json
import os
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry import AdapterRejected, Base, Limits, Registry, check_adapter
from registry.adapter_weights import read_weights
from registry.base_modules import linear_modules

PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"
LIMITS = Limits(max_rank=16, max_bytes=8 << 20)


def codes(folder: Path, base: Base | None, limits: Limits = LIMITS) -> set[str]:
    return {problem.code for problem in check_adapter(folder, base, limits)}


def _vocabulary(folder: Path, base: Base) -> None:
    tokenizer = json.loads((base.path / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({"id": 49152, "content": "<new>", "special": True})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


WARNINGS: list[tuple[str, Callable[[Any, Base], object]]] = [
    ("weights-zero", lambda e, _: e.every("B", np.zeros_like)),
    ("weights-zero", lambda e, _: e.every("A", np.zeros_like)),
    ("base-name", lambda e, _: e.config(base_model_name_or_path="a/other")),
    ("config-unknown-key", lambda e, _: e.config(use_fancy_thing=True)),
    ("tokenizer-differs", lambda e, base: _vocabulary(e.folder, base)),
    ("tokenizer-unreadable", lambda e, _: (e.folder / "tokenizer.json").write_text("{")),
    (
        "tokenizer-unreadable",
        lambda e, _: (e.folder / "tokenizer.json").write_text('{"model": {"merges": 5}}'),
    ),
    ("template-differs", lambda e, _: (e.folder / "chat_template.jinja").write_text("{{x}}")),
    (
        "template-differs",
        lambda e, _: (e.folder / "tokenizer_config.json").write_text('{"chat_template": "x"}'),
    ),
]


@pytest.mark.parametrize(
    ("code", "change"), WARNINGS, ids=[f"{i}-{code}" for i, (code, _) in enumerate(WARNINGS)]
)
def test_a_warning_does_not_refuse(
    adapter: Path, base: Base, home: Path, edit: Any, code: str, change: Any
) -> None:
    change(edit, base)
    problems = check_adapter(adapter, base, LIMITS)
    assert [(problem.code, problem.severity) for problem in problems] == [(code, "warning")]
    told: list[str] = []
    with Registry.open() as registry:
        registry.publish(adapter, "fine", base=base, on_warning=lambda p: told.append(p.code))
    assert told == [code]


STRICT = [(code, change) for code, change in WARNINGS if code.startswith(("token", "templ"))]


@pytest.mark.parametrize(
    ("code", "change"), STRICT, ids=[f"{i}-{code}" for i, (code, _) in enumerate(STRICT)]
)
def test_by_policy_another_tokenizer_is_refused(
    adapter: Path, base: Base, home: Path, edit: Any, code: str, change: Any
) -> None:
    change(edit, base)
    strict = replace(LIMITS, strict_tokenizer=True)
    problems = check_adapter(adapter, base, strict)
    assert [(problem.code, problem.severity) for problem in problems] == [(code, "error")]
    with Registry.open() as registry:
        with pytest.raises(AdapterRejected) as caught:
            registry.publish(adapter, "fine", base=base, limits=strict)
        assert [problem.code for problem in caught.value.problems] == [code]
        assert registry.list() == []


LONG_NAMES = [f"self_attn.{name}_proj" for name in "qkvo"] + [
    f"mlp.{name}_proj" for name in ("gate", "up", "down")
]
GOOD: list[tuple[str, Callable[[Any], object]]] = [
    ("as PEFT writes it", lambda e: None),
    ("in bfloat16", lambda e: e.bfloat16()),
    ("in float16", lambda e: e.every("A", lambda v: v.astype(np.float16))),
    ("alpha a fraction", lambda e: e.config(lora_alpha=12.5)),
    ("rank-stabilised", lambda e: e.config(use_rslora=True)),
    ("targets by pattern", lambda e: e.config(target_modules="all-linear")),
    ("targets by longer names", lambda e: e.config(target_modules=LONG_NAMES)),
    ("init true", lambda e: e.config(init_lora_weights=True)),
    ("init gaussian", lambda e: e.config(init_lora_weights="gaussian")),
    ("no base named", lambda e: e.config(base_model_name_or_path=None)),
    ("other files beside", lambda e: (e.folder / "README.md").write_text("hi")),
    ("training's pickle beside", lambda e: (e.folder / "training_args.bin").write_bytes(b"x")),
    ("a folder beside", lambda e: (e.folder / "checkpoint-10").mkdir()),
]


@pytest.mark.parametrize("change", [c for _, c in GOOD], ids=[name for name, _ in GOOD])
def test_a_good_adapter_has_no_problem(
    adapter: Path, base: Base, edit: Any, change: Callable[[Any], object]
) -> None:
    change(edit)
    assert check_adapter(adapter, base, LIMITS) == []
    assert check_adapter(adapter, None, LIMITS) == []


def test_rank_pattern_is_read_as_peft_reads_it(adapter: Path, base: Base, edit: Any) -> None:
    """One module of another rank: right with its pattern, wrong without."""
    edit.tensors(A0=lambda v: v[:4], B0=lambda v: v[:, :4])
    assert codes(adapter, base) == {"weights-rank"}
    edit.config(rank_pattern={"layers.0.self_attn.q_proj": 4})
    assert codes(adapter, base) == set()


def test_the_tokenizer_of_the_base_beside_the_adapter_is_no_problem(
    adapter: Path, base: Base
) -> None:
    """However it was saved: libraries write padding, truncation and merges differently."""
    tokenizer = json.loads((base.path / "tokenizer.json").read_text())
    tokenizer["padding"] = {"strategy": "BatchLongest"}
    tokenizer["model"]["merges"] = [
        " ".join(m) if isinstance(m, list) else m for m in tokenizer["model"]["merges"]
    ]
    (adapter / "tokenizer.json").write_text(json.dumps(tokenizer))
    template = (base.path / "chat_template.jinja").read_text()
    (adapter / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    assert codes(adapter, base) == set()


def test_every_problem_is_told_at_once(adapter: Path, base: Base, edit: Any) -> None:
    edit.config(r=99, lora_alpha=-1, use_dora=True, bias="all")
    edit.tensors(A0=lambda v: v * np.nan, B0=lambda v: v[:5])
    edit.rename("layers.1.", "layers.9.")
    (adapter / "chat_template.jinja").write_text("other")
    problems = check_adapter(adapter, base, LIMITS)
    assert {problem.code for problem in problems} == {
        "config-rank-limit",
        "config-alpha",
        "config-dora",
        "config-bias",
        "weights-not-finite",
        "base-shape",
        "base-layer",
        "template-differs",
    }
    assert problems[-1].severity == "warning"


def test_an_adapter_of_a_smaller_base_is_refused(
    tmp_path: Path, tiny_base: Path, embedded_base: Base, make_adapter: Any
) -> None:
    small = make_adapter(tmp_path / "small", tiny_base)
    assert "base-shape" in codes(small, embedded_base)


def test_an_adapter_of_a_deeper_base_is_refused(
    tmp_path: Path, base: Base, embedded_base: Base, make_adapter: Any
) -> None:
    large = make_adapter(tmp_path / "large", embedded_base, rank=1, targets=["k_proj"])
    assert {"base-shape", "base-layer"} <= codes(large, base)


def test_without_a_base_shapes_are_not_guessed(adapter: Path, edit: Any) -> None:
    edit.rename("layers.1.", "layers.7.")
    assert codes(adapter, None) == set()


def test_names_from_the_file_cannot_speak_to_the_terminal(
    adapter: Path, base: Base, edit: Any
) -> None:
    edit.add("\x1b[2J\nerror: owned", 2)
    (problem,) = check_adapter(adapter, base, LIMITS)
    assert problem.code == "weights-name"
    assert problem.message.isprintable()
    assert "owned" in problem.message


@pytest.mark.parametrize("what", ["nothing", "file"])
def test_no_folder(tmp_path: Path, base: Base, what: str) -> None:
    if what == "file":
        (tmp_path / what).write_text("")
    assert codes(tmp_path / what, base) == {"folder-missing"}


def test_a_whole_model_is_not_an_adapter(base: Base) -> None:
    problems = check_adapter(base.path, base, LIMITS)
    assert [problem.code for problem in problems] == ["config-missing", "weights-missing"]
    assert "whole model" in problems[0].remedy


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_a_problem(adapter: Path, base: Base) -> None:
    (adapter / "adapter_config.json").chmod(0)
    assert "file-unreadable" in codes(adapter, base)


@pytest.fixture
def sparse_gigabyte(tmp_path: Path, base: Base) -> Iterator[Path]:
    """A valid adapter of one tensor of 1 GiB, all zeros, that takes no space on disk."""
    folder = tmp_path / "sparse"
    folder.mkdir()
    rows = (1 << 30) // (4 * 64)
    header = {
        f"{PREFIX}.lora_A.weight": {"dtype": "F32", "shape": [8, 64], "data_offsets": [0, 2048]},
        f"{PREFIX}.lora_B.weight": {
            "dtype": "F32",
            "shape": [rows, 8],
            "data_offsets": [2048, 2048 + rows * 32],
        },
    }
    text = json.dumps(header).encode()
    path = folder / "adapter_model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + 2048 + rows * 32)
    yield folder
    path.unlink()


def test_headers_of_a_large_adapter_are_fast(sparse_gigabyte: Path) -> None:
    start = time.perf_counter()
    weights, problems = read_weights(sparse_gigabyte)
    assert time.perf_counter() - start < 1
    assert weights is not None
    assert problems == []


def test_the_quantised_base_is_known_by_its_config(tiny_base: Path, tmp_path: Path) -> None:
    """Packed weights do not show their shapes: the config gives the same as the headers do."""
    values = json.loads((tiny_base / "config.json").read_text())
    values["quantization_config"] = {"quant_method": "bitsandbytes"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert linear_modules(tmp_path) == linear_modules(tiny_base)
    assert len(linear_modules(tiny_base)) == 14
