"""The held-out loss of adapters, whoever trained them, by one code that is neither's.

    python -m loadtests.score_adapters --base ./model --training rows.jsonl \
      --held-out held-out.jsonl adapter-1 adapter-2

Prints a JSON object: `losses`, in the order of the adapters, in nats a token of the held-out
answers, stop token included; `base_loss` without an adapter; `tokens` and `answer_tokens` of the
training rows. The base is in NF4, as it was trained on.
"""

import argparse
import json
from pathlib import Path
from typing import Any

_BATCH = 8


def main() -> None:
    """Score the adapters."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", required=True)
    parser.add_argument("--training", required=True, type=Path)
    parser.add_argument("--held-out", required=True, type=Path)
    parser.add_argument("adapters", nargs="+")
    options = parser.parse_args()

    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    cuda = torch.cuda.is_available()
    dtype = torch.bfloat16 if cuda else torch.float32
    tokenizer = AutoTokenizer.from_pretrained(options.base)
    base = AutoModelForCausalLM.from_pretrained(
        options.base,
        dtype=dtype,
        device_map={"": 0 if cuda else "cpu"},
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        ),
    )
    for module in base.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # or evaluation would compute in bfloat16
    held_out = [answer_ids(tokenizer, row) for row in _rows(options.held_out)]
    training = [answer_ids(tokenizer, row) for row in _rows(options.training)]
    base_loss = mean_loss(base.eval(), held_out)
    model, losses = None, []
    for number, adapter in enumerate(options.adapters):
        name = f"adapter-{number}"
        if model is None:
            model = PeftModel.from_pretrained(base, adapter, adapter_name=name)
        else:
            model.load_adapter(adapter, adapter_name=name)
        model.set_adapter(name)
        losses.append(mean_loss(model.eval(), held_out))
    figures = {
        "losses": losses,
        "base_loss": base_loss,
        "tokens": sum(len(prompt) + len(answer) for prompt, answer in training),
        "answer_tokens": sum(len(answer) for _, answer in training),
    }
    print(json.dumps(figures))


def answer_ids(tokenizer: Any, row: dict[str, Any]) -> tuple[list[int], list[int]]:
    """The ids of a messages row's prompt, and of its last answer up to the stop token."""
    messages = row["messages"]
    prompt = _render(tokenizer, messages[:-1], add_generation_prompt=True)
    whole = _render(tokenizer, messages, add_generation_prompt=False)
    if whole[: len(prompt)] != prompt:
        raise SystemExit(f"the chat template renders this prompt in two ways: {messages[:-1]}")
    answer = whole[len(prompt) :]
    stops = [i for i, token in enumerate(answer) if token == tokenizer.eos_token_id]
    return prompt, answer[: stops[-1] + 1] if stops else answer


def mean_loss(model: Any, rows: list[tuple[list[int], list[int]]]) -> float:
    """The mean negative log-likelihood of all answer tokens of `rows`.

    Rows are padded on the right, where a causal model's earlier tokens do not see it.
    """
    import torch

    total, count = 0.0, 0
    with torch.inference_mode():
        for begin in range(0, len(rows), _BATCH):
            batch = rows[begin : begin + _BATCH]
            width = max(len(prompt) + len(answer) for prompt, answer in batch)
            ids = torch.zeros((len(batch), width), dtype=torch.long)
            for number, (prompt, answer) in enumerate(batch):
                ids[number, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
            logits = model(input_ids=ids.to(model.device)).logits
            for each, (prompt, answer) in zip(logits, batch, strict=True):
                predicted = each[len(prompt) - 1 : len(prompt) + len(answer) - 1].float()
                wanted = torch.tensor(answer, device=predicted.device)
                loss = torch.nn.functional.cross_entropy(predicted, wanted, reduction="sum")
                total += float(loss)
                count += len(answer)
    return total / max(1, count)


def _render(tokenizer: Any, messages: list[dict[str, Any]], *, add_generation_prompt: bool) -> Any:
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=add_generation_prompt
    )
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


if __name__ == "__main__":
    main()
