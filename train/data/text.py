"""The turns of a text that was rendered with markers, and of one without any.

- Llama-2: `<s>[INST] question [/INST] answer </s>`; a system prompt stands in the first question
  as `<<SYS>> … <</SYS>>`
- ChatML: `<|im_start|>user\\nquestion<|im_end|>\\n<|im_start|>assistant\\nanswer<|im_end|>`
- Alpaca's: `### Instruction:`, `### Input:`, `### Response:`
- Guanaco's: `### Human:`, `### Assistant:`

Markers are read, not trained: the chat is rendered anew with the base's own template.
"""

import re
from collections.abc import Callable

from train.data.chat import Message
from train.data.rejected import Unusable

_LLAMA = "`<s>[INST] question [/INST] answer </s>`"
_CHATML = "`<|im_start|>user\\nquestion<|im_end|>\\n<|im_start|>assistant\\nanswer<|im_end|>`"
_HASHES = "`### Instruction:\\nquestion\\n\\n### Response:\\nanswer`"
_ALPACA_OPENING = "Below is an instruction that describes a task"
_BOS = ("<s>", "<|begin_of_text|>", "<|endoftext|>")


def turns_of(text: str, *, plain: bool) -> list[Message]:
    """The turns of `text`, by the first kind of markers that it has.

    Text without any is an answer to an empty question where `plain`. Raises Unusable.
    """
    text = text.strip()
    found = [(mark.start(), read) for marker, read in _READERS if (mark := marker.search(text))]
    if found:
        return min(found, key=lambda one: one[0])[1](text)
    if not plain:
        raise Unusable(
            "no [INST], ChatML or ### markers in the text",
            f"{_LLAMA}; data_format=text trains text without markers whole",
        )
    return [Message("user", ""), Message("assistant", text)]


_TURN = re.compile(r"\[INST\](?P<question>.*?)\[/INST\](?P<answer>.*?)(?=\[INST\]|\Z)", re.DOTALL)
_MARK = re.compile(r"\[/?INST\]")
_SYSTEM = re.compile(r"\s*<<SYS>>(?P<system>.*?)<</SYS>>(?P<question>.*)", re.DOTALL)


def _llama(text: str) -> list[Message]:
    start = _MARK.search(text)
    before = text[: start.start()].strip() if start else ""
    if before not in ("", *_BOS):
        raise Unusable(f"{before[:40]!r} stands before [INST]", _LLAMA)
    marks = _MARK.findall(text)
    if marks != ["[INST]", "[/INST]"] * (len(marks) // 2):
        raise Unusable("[INST] and [/INST] do not pair", _LLAMA)
    messages: list[Message] = []
    for turn in _TURN.finditer(text):
        question = turn["question"]
        if not messages and (system := _SYSTEM.fullmatch(question)):
            messages.append(Message("system", system["system"].strip()))
            question = system["question"]
        if not question.strip():
            raise Unusable("a turn without a question", _LLAMA)
        answer = turn["answer"].strip()
        answer = answer.removesuffix("<s>").rstrip().removesuffix("</s>").strip()
        messages += [Message("user", question.strip()), Message("assistant", answer)]
    return messages


_BLOCK = re.compile(r"<\|im_start\|>(?P<role>\w+)\n(?P<content>.*?)<\|im_end\|>", re.DOTALL)


def _chatml(text: str) -> list[Message]:
    outside = _BLOCK.sub("", text).strip()
    if outside not in ("", *_BOS):
        raise Unusable(f"{outside[:40]!r} is in no turn", _CHATML)
    return [Message(block["role"], block["content"].strip()) for block in _BLOCK.finditer(text)]


_HEADING = re.compile(r"###\s*(?P<name>Instruction|Input|Response|System|Human|User|Assistant)\s*:")
_HEADED = {"Input": "user", "Instruction": "user", "Human": "user", "User": "user"}
_HEADED |= {"Response": "assistant", "Assistant": "assistant", "System": "system"}


def _headed(text: str) -> list[Message]:
    headings = list(_HEADING.finditer(text))
    opening = text[: headings[0].start()].strip()
    messages: list[Message] = []
    for bos in _BOS:
        opening = opening.removeprefix(bos).lstrip()
    if opening and not opening.startswith(_ALPACA_OPENING):
        messages.append(Message("system", opening))
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    for heading, end in zip(headings, ends, strict=True):
        role, content = _HEADED[heading["name"]], text[heading.end() : end].strip()
        if role == "assistant":
            content = content.removesuffix("</s>").removesuffix("<|endoftext|>").rstrip()
        if heading["name"] == "Input":
            if not messages or messages[-1].role != "user":
                raise Unusable("### Input: without ### Instruction: before it", _HASHES)
            content = "\n\n".join(part for part in (messages.pop().content, content) if part)
        if role == "user" and not content:
            raise Unusable(f"nothing under ### {heading['name']}:", _HASHES)
        messages.append(Message(role, content))
    return messages


_READERS: tuple[tuple[re.Pattern[str], Callable[[str], list[Message]]], ...] = (
    (re.compile(r"\[INST\]"), _llama),
    (re.compile(r"<\|im_start\|>"), _chatml),
    (re.compile(r"###\s*(?:Instruction|Human|User)\s*:"), _headed),
)
