"""What training renders and tokenises is what vLLM does: its own functions, on the same chats."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from registry import Base
from train.base_model import load_tokenizer
from train.data.formats import to_chats
from train.data.masking import ChatEncoder
from train.data.rows import Row

pytestmark = pytest.mark.beside

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Lima"}'},
}
PLAIN: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    {"role": "assistant", "content": "  One. \n"},
    {"role": "user", "content": "¿Y después? 🦜"},
    {"role": "assistant", "content": "Two."},
]
CALLING: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "20", "tool_call_id": "call_1"},
    {"role": "assistant", "content": "20 °C"},
]
TEMPLATES = {
    "own": None,
    "none": "",
    "tools": (
        "{% if tools %}{{ tools | tojson }}\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m | tojson }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "parts": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.content is string %}text {{ m.content }}{% else %}"
        "{% for part in m.content %}part {{ part.text }}{% endfor %}{% endif %}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
}

# Renders each prompt that a client would send, with vLLM's request model and renderer.
SERVER = """
import json, sys
from pathlib import Path
from vllm.config import ModelConfig
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.renderers.chat_utils import load_chat_template, parse_chat_messages
from vllm.renderers.hf import resolve_chat_template_content_format, safe_apply_chat_template
from vllm.tokenizers import get_tokenizer
from registry import Base
from serve.engine.arguments import engine_arguments
from serve.requests import ChatRequest, checked
from serve.settings import ServeSettings

def prompts(folder, chats):
    base = Base(id=folder.name, path=folder, digest="", template_digest="", tokenizer_digest="")
    args = engine_arguments(ServeSettings(max_model_len=512), base)
    template = load_chat_template(args.chat_template)
    config, tokenizer = ModelConfig(str(folder)), get_tokenizer(str(folder))
    for body in chats:
        body = checked(ChatRequest, {"model": "m", **body}, max_output_tokens=99)
        request = ChatCompletionRequest(**body)
        tools = [tool.model_dump() for tool in request.tools] if request.tools else None
        form = resolve_chat_template_content_format(
            template, tools, "auto", tokenizer, model_config=config
        )
        conversation, _, _ = parse_chat_messages(request.messages, config, form)
        text = safe_apply_chat_template(
            config, tokenizer, conversation, tools=tools, chat_template=template,
            tokenize=False, add_generation_prompt=True,
        )
        yield tokenizer(text, add_special_tokens=request.add_special_tokens)["input_ids"]

work = json.loads(Path(sys.argv[1]).read_text())
served = {folder: list(prompts(Path(folder), chats)) for folder, chats in work.items()}
Path(sys.argv[1]).write_text(json.dumps(served))
"""


def test_prompts_are_the_servers(tiny_base: Path, tmp_path: Path) -> None:
    asked: dict[str, list[dict[str, Any]]] = {}
    trained: dict[str, list[list[int]]] = {}
    for name, template in TEMPLATES.items():
        folder = tmp_path / name
        shutil.copytree(tiny_base, folder)
        if template:
            (folder / "chat_template.jinja").write_text(template)
        elif template == "":
            (folder / "chat_template.jinja").unlink()
        base = Base(id=name, path=folder, digest="", template_digest="", tokenizer_digest="")
        encoder = ChatEncoder(load_tokenizer(base), name)
        rows: list[dict[str, Any]] = [{"messages": PLAIN}]
        if name == "tools":
            rows.append({"messages": CALLING, "tools": TOOLS})
        asked[str(folder)], trained[str(folder)] = [], []
        for row in rows:
            (chat,) = to_chats(folder, [Row(1, row)])
            for index, message in enumerate(chat.messages):
                if message.role == "assistant":
                    asked[str(folder)].append({**row, "messages": row["messages"][:index]})
                    prompt = encoder.prompt_ids(chat.messages[:index], chat.tools)
                    trained[str(folder)].append(prompt)
    work = tmp_path / "work.json"
    work.write_text(json.dumps(asked))
    done = subprocess.run(
        [sys.executable, "-c", SERVER, str(work)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    served = json.loads(work.read_text())
    tokenizer = load_tokenizer(base)
    for folder, prompts in trained.items():
        for ids, wanted in zip(prompts, served[folder], strict=True):
            assert tokenizer.decode(ids) == tokenizer.decode(wanted), folder
            assert ids == wanted, folder
    said = [line for line in done.stderr.splitlines() if "has no chat template" in line]
    assert len(said) == 1
    assert said[0].startswith("none has no chat template: chats are rendered as plain")
