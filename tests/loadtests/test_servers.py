"""The servers under comparison are started alike."""

import os
from pathlib import Path

import pytest

from loadtests.servers import Capacity, lorikeet_plan, stock_plan
from serve.engine import toolkit

CAPACITY = Capacity("float32", 8, 16, 32, 2048, 1.0)


def test_both_servers_get_the_same_slots_and_stock_none_of_our_plugins(tmp_path: Path) -> None:
    stock = stock_plan(
        "stock", tmp_path / "base", "base", {"a": tmp_path / "a"}, CAPACITY, cpu=True
    )
    ours = lorikeet_plan("ours", tmp_path / "base", tmp_path / "home", CAPACITY)
    for plan in (stock, ours):
        given = dict(zip(plan.command, plan.command[1:], strict=False))
        assert given["--max-loras"] == "8"
        assert given["--max-lora-rank"] == "16"
        assert given["--max-num-seqs"] == "32"
        assert given["--dtype"] == "float32"
    assert stock.environment["VLLM_PLUGINS"] == ""
    assert f"a={tmp_path / 'a'}" in stock.command
    assert str(2**30) in stock.command
    assert ours.environment["LORIKEET_HOME"] == str(tmp_path / "home")
    assert os.environ.get("LORIKEET_HOME") != str(tmp_path / "home")


def test_without_a_cuda_toolkit_stock_samples_as_ours_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for there in (False, True):
        monkeypatch.setattr(toolkit, "has_toolkit", lambda there=there: there)
        for cpu in (False, True):
            plan = stock_plan("stock", tmp_path, "base", {}, CAPACITY, cpu=cpu)
            told = "VLLM_USE_FLASHINFER_SAMPLER" in plan.environment
            assert told == (not there and not cpu)
