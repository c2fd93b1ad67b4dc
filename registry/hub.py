"""Models from the Hugging Face hub: the only place that downloads any; its errors end here."""

import errno
from collections.abc import Callable, Sequence
from pathlib import Path

from registry.errors import DiskFull, UnknownBase

_WANTED = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "README.md", "LICENSE"]
_UNWANTED = ["original/*", "consolidated*", "onnx/*", "*/*"]


def fetch(
    repository: str,
    revision: str | None = None,
    on_progress: Callable[[str, float], None] | None = None,
    *,
    only: Sequence[str] | None = None,
) -> Path:
    """The local folder of `repository` ("organisation/model"), downloaded where it is not yet.

    With `only`, the files of these names and no others.
    Without a network the last downloaded snapshot is used. Raises UnknownBase where there is no
    such model, or it needs a licence or a network that is not there; DiskFull.
    """
    from huggingface_hub import errors, snapshot_download

    if on_progress:
        on_progress(f"Fetching {repository}", 0.0)
    try:
        folder = snapshot_download(
            repository,
            revision=revision,
            allow_patterns=list(only or _WANTED),
            ignore_patterns=_UNWANTED,
        )
    except errors.GatedRepoError as error:
        raise UnknownBase(
            f"{repository} asks for its licence to be accepted",
            remedy=f"accept it at https://huggingface.co/{repository}, then run: hf auth login",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UnknownBase(
            f"{repository} has no revision {revision}",
            remedy="name a branch, a tag or a commit of the model's repository",
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise UnknownBase(
            f"there is no model {repository} on the hub, or it is private",
            remedy="check the spelling; for a private model run: hf auth login",
        ) from error
    except Exception as error:  # network, cache and transfer errors have no common ancestor
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise DiskFull(
                f"no space left to download {repository}",
                needed=0,
                remedy="free some space, or set HF_HOME to a larger disk",
            ) from error
        raise UnknownBase(
            f"{repository} is not on this machine and cannot be fetched ({type(error).__name__})",
            remedy="check the network, or name a local folder or the embedded base",
        ) from error
    if on_progress:
        on_progress(f"Fetched {repository}", 1.0)
    return Path(folder)
