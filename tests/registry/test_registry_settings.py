"""Where the registry keeps things, by default and by the environment."""

from pathlib import Path

import pytest
from platformdirs import user_data_path
from pydantic import ValidationError

import registry
from registry import RegistrySettings
from registry.terminal import clear_errors


def test_the_default_is_the_users_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LORIKEET_HOME", raising=False)
    assert RegistrySettings().home == user_data_path("lorikeet", appauthor=False)


def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LORIKEET_HOME", str(tmp_path))
    monkeypatch.setenv("LORIKEET_DATABASE_URL", "postgresql://host/db")
    settings = RegistrySettings()
    assert (settings.home, settings.url) == (tmp_path, "postgresql://host/db")
    monkeypatch.delenv("LORIKEET_DATABASE_URL")
    assert RegistrySettings().url == f"sqlite:///{tmp_path / 'registry.db'}"
    monkeypatch.setenv("LORIKEET_HOME", "")
    assert RegistrySettings().home == user_data_path("lorikeet", appauthor=False)


def test_a_relative_home_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORIKEET_HOME", "data")
    assert RegistrySettings().home == tmp_path / "data"


def test_settings_are_frozen_and_closed(tmp_path: Path) -> None:
    settings = RegistrySettings(home=tmp_path)
    with pytest.raises(ValidationError):
        settings.home = tmp_path / "other"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        RegistrySettings(hoem=tmp_path)  # type: ignore[call-arg]


def test_a_value_that_cannot_be_is_told_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORIKEET_CACHE_BYTES", "lots")
    with pytest.raises(SystemExit) as caught, clear_errors():
        RegistrySettings()
    assert caught.value.code == 2
    assert "LORIKEET_CACHE_BYTES" in (told := capsys.readouterr().err)
    assert "'lots'" in told


def test_every_exported_name_is_there() -> None:
    for name in registry.__all__:
        assert getattr(registry, name) is not None
    with pytest.raises(AttributeError):
        registry.nothing  # noqa: B018
