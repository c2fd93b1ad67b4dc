"""Under which licence a base model is, as far as its folder says."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from registry import Base

LICENCE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING", "NOTICE")
_CARD = "README.md"
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)
_KNOWN_TEXTS = (
    (r"Apache License\s+Version 2\.0", "apache-2.0"),
    (r"MIT License", "mit"),
    (r"BSD 3-Clause", "bsd-3-clause"),
    (r"LLAMA 2 COMMUNITY LICENSE", "llama2"),
    (r"META LLAMA 3 COMMUNITY LICENSE", "llama3"),
    (r"Gemma Terms of Use", "gemma"),
)


@dataclass(frozen=True, slots=True)
class Licence:
    """`id` is Hugging Face's (apache-2.0, mit, other …), `name` and `link` what `other` needs.

    `source` says where it was found; `files` are the texts in the base's folder, to be passed on.
    """

    id: str
    source: str
    name: str | None = None
    link: str | None = None
    files: tuple[Path, ...] = ()


def licence_of(base: Base) -> Licence | None:
    """The licence by the base's record, its model card or its licence file; None if unknown."""
    files = tuple(base.path / name for name in LICENCE_FILES if (base.path / name).is_file())
    return _by_record(base.path, files) or _by_card(base.path, files) or _by_text(files)


def _by_record(folder: Path, files: tuple[Path, ...]) -> Licence | None:
    """What the embedded base's own record has."""
    try:
        record = json.loads((folder / "provenance.json").read_bytes())
        licence, package = record["licence"], record["package"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Licence(str(licence).lower(), f"the package {package}", files=files)


def _by_card(folder: Path, files: tuple[Path, ...]) -> Licence | None:
    """What the header of the base's model card has."""
    try:
        found = _FRONT_MATTER.match((folder / _CARD).read_text(encoding="utf-8"))
        header = yaml.safe_load(found[1]) if found else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    if not isinstance(header, dict) or not isinstance(licence := header.get("license"), str):
        return None
    name, link = (header.get(key) for key in ("license_name", "license_link"))
    return Licence(
        licence,
        "the base's model card",
        str(name) if name else None,
        str(link) if link else None,
        files,
    )


def _by_text(files: tuple[Path, ...]) -> Licence | None:
    """What the licence file begins with."""
    for file in files:
        text = file.read_text(encoding="utf-8", errors="replace")[:4000]
        for pattern, licence in _KNOWN_TEXTS:
            if re.search(pattern, text, re.IGNORECASE):
                return Licence(licence, f"the base's {file.name}", files=files)
        first = next((line.strip() for line in text.splitlines() if line.strip()), file.name)
        return Licence("other", f"the base's {file.name}", first[:80], file.name, files)
    return None
