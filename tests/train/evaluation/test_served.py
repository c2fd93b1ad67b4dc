"""`lorikeet eval --url`: a running server answers. The echo engine's adapter says its own name."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registry import Base, Registry, RegistrySettings, resolve_base
from serve.child import child_server
from train.data.chat import Chat, Message, ToolCall
from train.errors import ServerFailed
from train.evaluation.evaluate_version import EvalRequest, evaluate_version
from train.evaluation.served import Served, _body, expected_of
from train.evaluation.subject import Rows
from train.progress import SilentReporter

QUESTIONS = [f"Who made thing {n}?" for n in range(12)]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> RegistrySettings:
    return RegistrySettings(home=tmp_path_factory.mktemp("served") / "home")


@pytest.fixture(scope="module")
def base(places: RegistrySettings, tiny_base: Path) -> Base:
    return resolve_base(tiny_base, places)


@pytest.fixture(scope="module")
def url(
    places: RegistrySettings,
    base: Base,
    tmp_path_factory: pytest.TempPathFactory,
    make_adapter: Callable[..., Path],
) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("adapter")
    with Registry.open(places) as registry:
        registry.publish(make_adapter(folder / "a", base), "echo", base=base)
    options = ["--engine", "echo", "--base", str(base.path)]
    environment = {"LORIKEET_HOME": str(places.home)}
    with child_server(options, folder / "server.log", env=environment) as server:
        yield server.url


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Held-out rows to which the echo of the adapter is the right answer."""
    path = tmp_path / "held-out.jsonl"
    lines = [{"prompt": text, "completion": f"echo@1: {text}"} for text in QUESTIONS]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text('{"prompt": "Who made OPL?", "completion": "Psion."}\n')
    return path


def test_a_server_is_asked_for_all_three_and_the_gate_opens(
    url: str, places: RegistrySettings, base: Base, rows: Path, examples: Path
) -> None:
    request = EvalRequest(
        "echo", Rows(rows, examples), base=str(base.path), url=url, registry_settings=places
    )
    version, found = evaluate_version(request, SilentReporter())
    adapter, alone, few_shot = (found[who] for who in ("adapter", "base", "few_shot"))
    assert (adapter["correct"], alone["correct"], few_shot["correct"]) == (12, 0, 0)
    assert (alone["contains"], found["few_shot_examples"]) == (0, 1)
    assert few_shot["prompt_tokens"] == alone["prompt_tokens"] == 4  # the echo hears the last turn
    assert adapter["seconds"] > 0
    assert adapter["loss"] is None  # a server tells no losses of expected answers
    assert found["measured"]["by"] == f"the server on {url}/v1"
    assert found["comparison"]["base"]["low"] > 0
    assert version.manifest.evaluation is not None
    with Registry.open(places) as registry:
        assert "prod" in registry.promote("echo", 1).aliases


def test_a_server_without_the_version_or_with_another_is_told(
    url: str, places: RegistrySettings
) -> None:
    server = Served(url, None, SilentReporter())
    with pytest.raises(ServerFailed, match="refuses"):
        server.check("nobody@1", "sha256:0")
    with pytest.raises(ServerFailed, match="has another echo@1: sha256:"):
        server.check("echo@1", "sha256:000000000000")
    with Registry.open(places) as registry:
        server.check("echo@1", registry.get("echo@1").digest)


def test_no_server_is_told(places: RegistrySettings) -> None:
    server = Served("http://127.0.0.1:9", None, SilentReporter())
    with pytest.raises(ServerFailed, match="does not answer") as failed:
        server.check("echo@1", "sha256:0")
    assert "lorikeet serve" in str(failed.value.remedy)


def test_calls_of_tools_go_and_come_as_the_api_has_them() -> None:
    call = ToolCall("weather", '{"place": "Lugo"}')
    tool = {"type": "function", "function": {"name": "weather"}}
    turns = (
        Message("user", "Rain in Lugo?"),
        Message("assistant", "", tool_calls=(call,)),
        Message("tool", "no"),
        Message("assistant", "No."),
    )
    body = _body(Chat(1, turns, (tool,)), [])
    assert body["tools"] == [tool]
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "tool"]
    (sent,) = body["messages"][1]["tool_calls"]
    assert json.loads(sent["function"]["arguments"]) == {"place": "Lugo"}
    assert sent["id"] == body["messages"][2]["tool_call_id"]
    spaced = ToolCall("weather", '{ "place":"Lugo" }')
    asks = [Chat(1, (turns[0], Message("assistant", "", tool_calls=(c,)))) for c in (call, spaced)]
    assert expected_of(asks[0]) == expected_of(asks[1]) == '[["weather", {"place": "Lugo"}]]'
    assert expected_of(Chat(1, turns)) == "No."


def test_examples_go_before_the_question() -> None:
    example = Chat(1, (Message("user", "a"), Message("assistant", "b")))
    asked = Chat(2, (Message("user", "c"), Message("assistant", "d")))
    assert _body(asked, [example]) == {
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ]
    }
