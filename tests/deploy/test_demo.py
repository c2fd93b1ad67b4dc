"""The demo but for its training: it serves, asks and measures, with keys and without."""

from collections.abc import Callable
from pathlib import Path

import pytest
from monitored import declared, named

from deploy import demo
from registry import DEFAULT_BASE, Registry, RegistrySettings, resolve_base


def test_the_metrics_it_shows_exist_and_have_a_model() -> None:
    names = named([Path(demo.__file__).read_text()])
    assert len(names) == 5
    for name in names:
        its = [labels for series, labels in declared().items() if series in (name, f"{name}_sum")]
        assert its, name
        assert "model" in its[0]


@pytest.mark.parametrize("keys", [False, True])
def test_a_server_that_asks_for_keys_is_given_one_for_the_demos_time(
    keys: bool,
    home: Path,
    tmp_path: Path,
    make_adapter: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LORIKEET_SERVE_ENGINE", "echo")
    monkeypatch.setenv("COLUMNS", "200")
    base = resolve_base(DEFAULT_BASE, RegistrySettings(home=home))
    with Registry.open() as registry:
        for example in (demo.OPL, demo.TITULARES):
            registry.publish(make_adapter(tmp_path / example.name, base), example.name, base=base)
        if keys:
            registry.keys.create("team")
    demo.main()
    printed = capsys.readouterr().out
    (row,) = (line for line in printed.splitlines() if "titulares@1" in line and " ms" in line)
    assert "–" not in row
    with Registry.open() as registry:
        made = [key for key in registry.keys.list() if key.tenant == "lorikeet-demo"]
    assert [key.active for key in made] == [False] * keys
