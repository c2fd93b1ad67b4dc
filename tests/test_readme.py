"""The README's commands, run as they stand: only the paths, the port and the base are the test's.

Training runs on a tiny base for one step; the server is the echo engine, which needs no model.
"""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lorikeet import app
from registry import Registry, RegistrySettings, resolve_base
from serve.child import child_server

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(bash|python|json)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if kind == "bash" for line in block.splitlines()]
LINKS = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
REAL_ENGINE = ("lorikeet serve ", "lorikeet adapters certify ")
FOR_EVER = ("lorikeet jobs follow ",)
"""Waits for what no worker trains here."""
EMBEDDED = "smollm2-135m-instruct"
QUICK = (
    "--set max_steps=1 --set max_eval_rows=1 --set eval_fraction=0.4 "
    "--set max_new_tokens=2 --set baselines=false --set max_length=512"
)


def test_every_make_target_exists() -> None:
    targets = {line.split()[1] for line in COMMANDS if line.startswith("make ")}
    targets |= set(re.findall(r"`make ([a-z]+)`", README))
    assert {"demo", "test", "check", "bench", "lock", "help"} <= targets
    for target in targets:
        done = subprocess.run(
            ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_every_file_that_it_names_is_there() -> None:
    assert LINKS
    for named in LINKS:
        path, _, anchor = named.partition("#")
        assert (ROOT / path).exists(), named
        headings = (
            re.findall(r"^#+ (.+)$", (ROOT / path).read_text(), re.MULTILINE) if anchor else []
        )
        assert not anchor or anchor in {each.lower().replace(" ", "-") for each in headings}, named


def test_every_page_is_named() -> None:
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}
    assert pages == {link.partition("#")[0] for link in LINKS if link.startswith("docs/")}


def test_every_folder_that_the_map_names_is_there() -> None:
    tree = (ROOT / "docs" / "architecture.md").read_text()
    packages = re.findall(r"^([a-z]+(?:/|\.py)) ", tree, re.MULTILINE)
    assert {"train/", "registry/", "serve/", "lorikeet.py"} <= set(packages)
    assert all((ROOT / package).exists() for package in packages)


def test_its_comparison_is_that_of_the_benchmarks() -> None:
    benchmarks = (ROOT / "docs" / "benchmarks.md").read_text()
    (table,) = re.findall(r"^\| \| stock vLLM.*?(?=^$)", README, re.MULTILINE | re.DOTALL)
    figures = re.findall(
        r"\d+(?:\.\d+)?", "".join(row.partition(":")[2] for row in table.splitlines()[2:])
    )
    assert len(figures) >= 10
    assert all(re.search(rf"\b{re.escape(figure)}\b", benchmarks) for figure in figures)


@pytest.mark.timeout(300)
def test_the_tour(
    home: Path,
    tiny_base: Path,
    tmp_path: Path,
    make_adapter: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every command of the tour in its order, and the Python lines against the server."""
    (rows,) = (block for kind, block in BLOCKS if kind == "json")
    same_shape = rows.splitlines()[0]
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(same_shape.replace("OPL", f"OPL {i}") for i in range(5)) + "\n"
    )
    base = resolve_base(tiny_base, RegistrySettings(home=home))
    make_adapter(tmp_path / "path" / "to" / "adapter", base)
    log = tmp_path / "server.log"
    program, fine_tuning = (block for kind, block in BLOCKS if kind == "python")
    with child_server(["--engine", "echo", "--base", str(tiny_base)], log) as server:
        url, ran = server.url, 0
        for line in COMMANDS:
            if line.startswith(("make ", *REAL_ENGINE, *FOR_EVER)):
                continue  # checked above and below; the server runs already
            name, is_set, command = line.partition("=$(")
            if is_set:  # each line has a shell of its own
                printed = _run(_for_the_test(command[:-1], url, tiny_base), tmp_path)
                monkeypatch.setenv(name, printed.strip())
            else:
                _run(_for_the_test(line, url, tiny_base), tmp_path)
            ran += 1
            if line.startswith("lorikeet ask") and "--api-key" not in line:
                program = program.replace("http://127.0.0.1:8000", url)
                assert "support@1 support@1: Who made OPL?" in _python(program, tmp_path)
                job = _python(program + fine_tuning.replace(EMBEDDED, base.id), tmp_path)
                assert re.search("^ftjob-[a-z0-9]+ validating_files$", job, re.MULTILINE)
    assert ran >= 10
    with Registry.open(RegistrySettings(home=home)) as registry:
        assert {version.reference for version in registry.list()} == {
            "support@1",
            "support@2",
            "imported@1",
        }
        assert registry.get("support").number == 1


@pytest.mark.parametrize("start", [*REAL_ENGINE, *FOR_EVER])
def test_what_is_not_run_here_is_valid(start: str) -> None:
    """Run by the end-to-end tests."""
    lines = [line for line in COMMANDS if line.startswith(start)]
    assert lines
    for line in lines:
        result = CliRunner().invoke(app, [*line.split()[1:], "--help"])
        assert result.exit_code == 0


def _for_the_test(line: str, url: str, tiny_base: Path) -> str:
    line = re.sub(r"^lorikeet", f"{sys.executable} -m lorikeet", line)
    line = re.sub(r"^python", sys.executable, line)
    line = line.replace("--seconds 10 --slo ", f"--seconds 3 --slo {ROOT}/")
    line = line.replace("http://127.0.0.1:8000", url)
    if " train " in line:
        line += f" --base {tiny_base} {QUICK}"
    if " ask " in line:
        line += f" --url {url}/v1"
    line = line.replace(EMBEDDED, str(tiny_base))
    if " promote " in line:  # one step on a random base convinces no gate
        line += " --force 'a test'"
    if " check " in line or " import " in line or " eval " in line:
        line += f" --base {tiny_base}"
    return line


def _python(program: str, folder: Path) -> str:
    return _run(f"{sys.executable} -c '{program}'", folder)


def _run(command: str, folder: Path) -> str:
    done = subprocess.run(
        command, shell=True, cwd=folder, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout
