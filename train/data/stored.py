"""Rows of what the library `datasets` reads: folders that it saved, and data sets of the hub."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from train.errors import DataError, DataFileMissing

_SAVED = ("dataset_info.json", "dataset_dict.json")
_BATCH = 1000


def stored_rows(path: Path, on_note: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """The rows of the folder `path`, or of the hub's data set of that id (`name@revision`).

    Raises DataFileMissing where the folder is not one that `save_to_disk` wrote, DataError where
    the data cannot be had, or has several splits and none is called train.
    """
    if path.is_dir() and not any((path / name).is_file() for name in _SAVED):
        raise DataFileMissing(
            f"{path} is a folder", remedy="name one file in it, or save it with save_to_disk"
        )
    split = _train_split(path, _load(path), on_note)
    for batch in split.with_format("arrow").iter(batch_size=_BATCH):
        yield from batch.to_pylist()


def _load(path: Path) -> Any:
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    datasets.disable_progress_bars()
    try:
        if path.is_dir():
            return datasets.load_from_disk(str(path))
        name, _, revision = str(path).partition("@")
        return datasets.load_dataset(name, revision=revision or None)
    except (OSError, ValueError, RuntimeError, HfHubHTTPError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if path.is_dir():
            raise DataError(
                f"{path} cannot be read: {reason}", remedy="save it again, or use JSONL"
            ) from error
        raise DataFileMissing(
            f"there is no file {path}, and no data set of that name could be had from the hub: "
            f"{reason}",
            remedy="check the path of --data, or the data set's name, your access and the network",
        ) from error


def _train_split(path: Path, loaded: Any, on_note: Callable[[str], None]) -> Any:
    if not isinstance(loaded, dict):
        return loaded
    name = "train" if "train" in loaded else next(iter(loaded), None)
    if name is None or (name != "train" and len(loaded) > 1):
        splits = ", ".join(loaded) or "none"
        raise DataError(
            f"{path} has no split called train, but {splits}",
            remedy="save the split to train on with save_to_disk, and name its folder",
        )
    others = [other for other in loaded if other != name]
    left_out = f", not {', '.join(others)}" if others else ""
    on_note(f"{path}: the split {name} is read{left_out}")
    return loaded[name]
