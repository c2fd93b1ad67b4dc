"""Does an adapter belong to a base: its modules, shapes, digest, tokenizer and chat template?"""

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from registry.adapter_config import AdapterConfig
from registry.adapter_folder import WEIGHTS_FILE, has_file
from registry.adapter_weights import Weights, some
from registry.base_identity import (
    TEMPLATE_FILES,
    TOKENIZER_FILES,
    chat_template,
    template_digest,
    tokenizer_digest,
)
from registry.base_modules import linear_modules
from registry.bases import Base
from registry.files import without_path
from registry.manifest import MANIFEST_FILE, Manifest
from registry.problem import Problem, Severity

_LAYER = re.compile(r"\.(\d+)\.")


def check_modules(weights: Weights, base: Base) -> Iterator[Problem]:
    """Each module is one of the base's, and each half has the shape that the base's asks for."""
    other = f"train on {base.id}, or name the base that the adapter was trained on (--base)"
    try:
        modules = linear_modules(base.path)
    except (OSError, ValueError) as error:
        yield Problem(
            "base-unreadable", f"{base.id} cannot be read: {without_path(error)}", "fetch it again"
        )
        return
    if not modules:
        yield Problem(
            "base-shapes",
            f"the shapes of {base.id} cannot be told from its files: the adapter's are not checked",
            "keep the base unquantised on disk, so that its modules can be read",
            "warning",
        )
        return
    layers = 1 + max((_layer(module) for module in modules), default=-1)
    strangers = [module for module in weights.modules if module not in modules]
    if beyond := [module for module in strangers if _layer(module) >= layers]:
        yield Problem(
            "base-layer",
            f"{WEIGHTS_FILE}: {base.id} has {layers} layers, not {some(beyond)}",
            other,
        )
    if unknown := [module for module in strangers if _layer(module) < layers]:
        yield Problem(
            "base-module",
            f"{WEIGHTS_FILE}: {base.id} has no linear module {some(unknown)}",
            other,
        )
    wrong = []
    for module in weights.modules:
        if module not in modules:
            continue
        out_features, in_features = modules[module]
        a, b = weights.a.get(module), weights.b.get(module)
        if a is not None and a.shape[1:] != (in_features,):
            wrong.append(f"{module} A is {list(a.shape)}, not [rank, {in_features}]")
        if b is not None and (len(b.shape) != 2 or b.shape[0] != out_features):
            wrong.append(f"{module} B is {list(b.shape)}, not [{out_features}, rank]")
    if wrong:
        yield Problem(
            "base-shape", f"{WEIGHTS_FILE}: not the shapes of {base.id}: {some(wrong)}", other
        )


def check_origin(folder: Path, config: AdapterConfig | None, base: Base) -> Iterator[Problem]:
    """What the adapter says it was made for: a manifest's digest decides, a name only warns."""
    if has_file(folder, MANIFEST_FILE):
        try:
            made_for = Manifest.model_validate_json((folder / MANIFEST_FILE).read_bytes()).base
        except (OSError, ValidationError):
            made_for = None  # somebody else's file of that name
        if made_for is not None:
            if made_for.digest != base.digest:
                yield Problem(
                    "base-other",
                    f"the adapter was trained on {made_for.id} ({made_for.digest[:19]}), "
                    f"not on {base.id} ({base.digest[:19]})",
                    f"name its base (--base {made_for.id}), or train it again on {base.id}",
                )
            return
    name = config.base_name if config else None
    if name and _last(name) not in {_last(base.id), _last(str(base.path))}:
        yield Problem(
            "base-name",
            f"the adapter says that its base is {name[:100]!r}, which is not called {base.id}",
            "make sure that they are the same model: only shapes can be compared",
            "warning",
        )


def check_tokenizer(folder: Path, base: Base, strict: bool = False) -> Iterator[Problem]:
    """A tokenizer or chat template beside the adapter that differs from the base's.

    It is a warning, an error where `strict`.
    """
    severity: Severity = "error" if strict else "warning"
    try:
        own_tokenizer = any(has_file(folder, name) for name in TOKENIZER_FILES)
        if own_tokenizer and tokenizer_digest(folder) != base.tokenizer_digest:
            yield Problem(
                "tokenizer-differs",
                f"the tokenizer beside the adapter is not that of {base.id}, which is served",
                "train with the base's tokenizer, without added tokens",
                severity,
            )
        own_template = any(has_file(folder, name) for name in TEMPLATE_FILES)
        if (
            own_template
            and chat_template(folder)
            and template_digest(folder) != base.template_digest
        ):
            yield Problem(
                "template-differs",
                f"the chat template beside the adapter is not that of {base.id}, which is used",
                "train with the base's chat template",
                severity,
            )
    except (OSError, ValueError, TypeError, RecursionError) as error:
        yield Problem(
            "tokenizer-unreadable",
            f"the tokenizer beside the adapter cannot be read: {without_path(error)}",
            "remove it, or save it again with tokenizer.save_pretrained(folder)",
            severity,
        )


def _layer(module: str) -> int:
    match = _LAYER.search(module)
    return int(match[1][:9]) if match else -1


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].lower()
