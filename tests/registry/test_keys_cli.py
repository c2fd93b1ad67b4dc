"""`lorikeet keys …`: the secret alone on standard output, and mistakes told with their remedy."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from registry import BadReference, LorikeetError, Registry, UnknownKey, UsageError
from registry.keys_cli import _complete_key, app, parse_expiry


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, LorikeetError):
        raise result.exception
    return result


def test_create_prints_the_secret_alone(home: Path) -> None:
    result = run("create", "--tenant", "news", "--adapters", "a, b", "--rpm", 60, "--admin")
    secret = result.stdout.removesuffix("\n")
    with Registry.open() as registry:
        key = registry.keys.find(secret)
    assert key is not None
    assert (key.tenant, key.adapters, key.rpm, key.admin) == ("news", frozenset("ab"), 60, True)
    assert "no adapter a yet" in result.stderr
    assert "a, b and /admin; 60 rpm; expires never" in result.stderr
    assert "not shown again" in result.stderr
    assert "It is the first" in result.stderr
    assert secret not in result.stderr
    assert "It is the first" not in run("create", "--tenant", "sport").stderr


def test_list(home: Path) -> None:
    assert "keys create" in run("list").stdout
    assert json.loads(run("list", "--json").stdout) == []
    run("create", "--tenant", "news", "--tpm", 1000, "--concurrency", 2, "--expires", "30d")
    (row,) = json.loads(run("list", "--json").stdout)
    assert {"tenant", "adapters", "rpm", "admin", "created_at", "revoked_at"} < row.keys()
    assert (row["tpm"], row["concurrency"], row["active"]) == (1000, 2, True)
    text = run("list").stdout
    titles = ["key", "tenant", "reaches", "limits", "expires", "state"]
    assert text.splitlines()[0].split() == titles
    assert row["id"] in text
    assert "active" in text


def test_revoke(home: Path) -> None:
    run("create", "--tenant", "news")
    with Registry.open() as registry:
        (key,) = registry.keys.list()
    assert _complete_key(key.id[:3]) == [key.id]
    assert run("revoke", key.id).stdout == f"Revoked {key.id} of news\n"
    assert "revoked" in run("list").stdout
    assert _complete_key("") == []
    with pytest.raises(UnknownKey):
        run("revoke", "nokey")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--tenant", "A b"), BadReference),
        (("--tenant", "a", "--adapters", "a,,b"), BadReference),
        (("--tenant", "a", "--adapters", ""), BadReference),
        (("--tenant", "a", "--rpm", "0"), UsageError),
        (("--tenant", "a", "--expires", "2020-01-01"), UsageError),
        (("--tenant", "a", "--expires", "soon"), UsageError),
    ],
)
def test_mistakes_make_no_key(
    home: Path, arguments: tuple[str, ...], error: type[LorikeetError]
) -> None:
    with pytest.raises(error) as caught:
        run("create", *arguments)
    assert caught.value.remedy
    with Registry.open() as registry:
        assert not registry.keys.exist()


def test_a_tenant_is_needed(home: Path) -> None:
    assert run("create").exit_code == 2


def test_expiries_are_read() -> None:
    now = datetime.now(UTC)
    for text, hours in (("30d", 720), ("12h", 12)):
        assert abs(parse_expiry(text) - now - timedelta(hours=hours)) < timedelta(minutes=1)
    zoned = parse_expiry("2099-12-31T18:00+01:00")
    assert zoned == datetime(2099, 12, 31, 17, tzinfo=UTC)
    local = datetime(2099, 12, 31).astimezone()
    assert local < parse_expiry("2099-12-31T18:00") < parse_expiry("2099-12-31")
    assert parse_expiry("2099-12-31") < local + timedelta(days=1)


def test_limit(home: Path) -> None:
    run("create", "--tenant", "news", "--rpm", 60, "--tpm", 1000)
    with Registry.open() as registry:
        (key,) = registry.keys.list()
        told = run("limit", key.id, "--rpm", 6, "--tpm", 0).stdout
        assert told == f"Key {key.id} of news: 6 rpm\n"
        (limited,) = registry.keys.list()
    assert (limited.rpm, limited.tpm, limited.concurrency) == (6, None, None)
    with pytest.raises(UsageError, match="no limit is named"):
        run("limit", key.id)
    with pytest.raises(UnknownKey):
        run("limit", "nokey", "--rpm", 1)


@pytest.mark.parametrize("text", ["", "0d", "30", "30m", "-1d", "2099-13-01", "999999d9", "9" * 99])
def test_other_expiries_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_expiry(text)


@pytest.mark.parametrize("command", ["create", "list", "limit", "revoke"])
def test_every_help_has_an_example(command: str) -> None:
    assert f"lorikeet keys {command}" in run(command, "--help").stdout


def test_a_key_from_a_file_is_not_printed(home: Path, tmp_path: Path) -> None:
    secret = "lk-0123456789ab-" + "k" * 43
    file = tmp_path / "key"
    file.write_text(f"{secret}\n")
    done = run("create", "--tenant", "ops", "--from-file", file)
    assert secret not in done.output
    assert "Key 0123456789ab of ops" in done.stderr
    with Registry.open() as registry:
        assert registry.keys.find(secret) is not None


def test_a_key_from_a_file_that_was_revoked_stays_so_and_is_no_error(
    home: Path, tmp_path: Path
) -> None:
    """What starts with this command before each server has to start though its key has ended."""
    file = tmp_path / "key"
    file.write_text("lk-0123456789ab-" + "k" * 43)
    make = ("create", "--tenant", "ops", "--from-file", file)
    run(*make)
    run("revoke", "0123456789ab")
    done = run(*make)
    assert done.exit_code == 0
    assert "warning key 0123456789ab has ended, and stays so" in done.stderr
    with Registry.open() as registry:
        assert registry.keys.find(file.read_text()) is None
    file.write_text("lk-0123456789ab-" + "l" * 43)
    with pytest.raises(UsageError, match="with another secret"):
        run(*make)
