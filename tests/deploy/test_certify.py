"""`lorikeet adapters certify` starts a server of its own, asks it, and tells the truth."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lorikeet import app
from registry import Base, Registry, RegistrySettings, resolve_base
from train.errors import ServerFailed


@pytest.fixture
def base(tiny_base: Path, home: Path) -> Base:
    return resolve_base(tiny_base, RegistrySettings(home=home))


@pytest.fixture
def arguments(
    base: Base, home: Path, tmp_path: Path, make_adapter: Callable[..., Path]
) -> list[str]:
    rows = tmp_path / "held-out.jsonl"
    rows.write_text(json.dumps({"prompt": "Hello?", "completion": "Hello, you."}) + "\n")
    with Registry.open() as registry:
        registry.publish(make_adapter(tmp_path / "opl", base, scale=0.3), "opl", base=base)
    return ["adapters", "certify", "opl", "--base", str(base.path), "--data", str(rows)]


def test_an_engine_without_a_model_does_not_pass_and_its_key_is_revoked(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORIKEET_SERVE_ENGINE", "echo")
    with Registry.open() as registry:
        registry.keys.create("team")
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 1, done.output
    printed = json.loads(done.stdout)
    assert printed["reference"] == "opl@1"
    certificate = printed["certificate"]
    assert certificate["passed"] is False
    assert certificate["engine"]["echo"] == "1"
    assert any("differs by" in problem for problem in certificate["problems"])
    with Registry.open() as registry:
        assert registry.get("opl").manifest.certificate == certificate
        keys = {key.tenant: key for key in registry.keys.list()}
        assert keys["lorikeet-certify"].admin
        assert keys["lorikeet-certify"].revoked_at is not None
        assert keys["team"].revoked_at is None


def test_without_keys_none_is_made(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORIKEET_SERVE_ENGINE", "echo")
    done = CliRunner().invoke(app, [*arguments, "--no-save"])
    assert done.exit_code == 1, done.output
    assert "opl@1 has not passed" in done.stdout
    assert "held-out loss, as served" in done.stdout
    with Registry.open() as registry:
        assert not registry.keys.exist()
        assert registry.get("opl").manifest.certificate is None


def test_a_server_that_is_not_there(arguments: list[str], monkeypatch: Any) -> None:
    done = CliRunner().invoke(app, [*arguments, "--url", "http://127.0.0.1:9"])
    assert isinstance(done.exception, ServerFailed)
    assert "does not answer" in done.exception.message
