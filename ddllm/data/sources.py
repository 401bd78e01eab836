"""Where a corpus comes from: the embedded one, a local file or folder, or the Hugging Face hub.

`open_source` says which splits there are without reading them all; `Source.read` hands one on as a `Table`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from os.path import expanduser
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ddllm.config import suggest
from ddllm.data.embedded import read_embedded
from ddllm.data.files import SUFFIXES, Table, check_columns, file_kind, make_table, named_columns, read_file
from ddllm.errors import UserError

# What other people call these files.
ALIASES = {"valid": "validation", "dev": "validation", "val": "validation", "training": "train", "testing": "test"}
ALIASES |= {name: name for name in ("train", "validation", "test")}


@dataclass(frozen=True)
class Source:
    """Named splits, read on demand.

    Attributes:
        name: for people.
        splits: a reader for each split.
        folder: where files named in the configuration are looked for first.
        complete: it has a validation and a test split that are to be preferred to holding rows out at random.
    """

    name: str
    splits: dict[str, Callable[[], Table]]
    folder: Path | None = None
    complete: bool = False

    def find(self, wanted: str) -> str:
        """The split that is meant by a name, under which others may know it; the name itself where there is none."""
        return wanted if wanted in self.splits else ALIASES.get(wanted, wanted)

    def usual(self, key: str) -> str:
        """The split that has the usual name of "validation" or "test", or empty."""
        names = [key, *(name for name, meant in ALIASES.items() if meant == key)]
        return next((name for name in names if name in self.splits), "")

    def read(self, wanted: str, key: str, data: ConfigDict) -> Table:
        """Read a split, or a file in the source's folder or the current one.

        Args:
            wanted: name of the split, or path.
            key: where the configuration says so, for messages: config.data.<key>.
            data: the section `data` of the configuration.

        Raises:
            UserError: there is neither, or it cannot be read.
        """
        if (name := self.find(wanted)) in self.splits:
            return self.splits[name]()
        for folder in (self.folder, Path()):
            path = folder and folder / expanduser(wanted)
            if path and path.is_file():
                return read_file(path, *named_columns(data))
        if file_kind(Path(wanted)):
            places = f"{self.folder} or the current folder" if self.folder else "the current folder"
            raise UserError(f"config.data.{key} is {wanted!r}, but there is no such file in {places}.")
        remedy = "" if key == "train" else ", or leave it empty to hold rows out of train"
        raise UserError(
            f"config.data.{key} is {wanted!r}{suggest(wanted, list(self.splits))}, but {self.name} has only the splits "
            f"{', '.join(self.splits)}; name one of them or a file{remedy}."
        )


def open_source(data: ConfigDict) -> Source:
    """Find what config.data.source names: "embedded", then a local file or folder, then a data set on the hub.

    Raises:
        UserError: there is no such thing, or it has no splits that can be read.
    """
    name = data.source
    if name == "embedded":
        _check_embedded(data)
        tables = read_embedded(data.seed)
        return Source("embedded Rotten Tomatoes", {split: partial(tables.__getitem__, split) for split in tables}, complete=True)
    path = Path(expanduser(name))
    if path.is_file():
        return Source(path.name.split(".")[0], {"train": partial(read_file, path, *named_columns(data))}, path.parent)
    if path.is_dir():
        return open_folder(path, data)
    if file_kind(path) or path.is_absolute() or name.startswith((".", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise UserError(f"there is no file or folder {name} (config.data.source).")
    return open_hub(data)


def _check_embedded(data: ConfigDict) -> None:
    """Raise `UserError` for a key about files: whoever sets one means other texts than those."""
    for key in ("label_columns", "pair_column", "subset"):
        if data[key]:
            raise UserError(
                f"config.data.{key} is {data[key]!r}, but config.data.source is the embedded corpus of single texts with one label each; "
                "leave it empty or set config.data.source."
            )
    for key in ("train", "validation", "test"):
        if file_kind(Path(data[key])):
            raise UserError(
                f"config.data.{key} is {data[key]!r}, but config.data.source is the embedded corpus, which has its own splits; set config.data.source to "
                "the file or the folder of files to learn from."
            )


def open_folder(folder: Path, data: ConfigDict) -> Source:
    """A folder with a file for each split (or several shards), or one that `datasets` saved.

    Raises:
        UserError: it is neither.
    """
    if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return _saved_source(folder, data)
    shards: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and file_kind(path) and (shard := re.fullmatch(r"(.+?)(-\d+-of-\d+)?", path.name.split(".")[0])):
            shards.setdefault(ALIASES.get(shard[1].lower(), shard[1]), []).append(path)
    if not shards:
        raise UserError(
            f"the folder {folder} has no data files; give one with a file for each split, such as train.jsonl (also {', '.join(SUFFIXES)})."
        )
    return Source(folder.resolve().name, {split: partial(_read_shards, split, paths, data) for split, paths in shards.items()}, folder)


def open_hub(data: ConfigDict) -> Source:
    """A data set of the Hugging Face hub, from its cache or the network.

    Raises:
        UserError: it cannot be had.
    """
    import datasets

    try:
        loaded: Any = datasets.load_dataset(data.source, data.subset or None)
    except Exception as error:  # The library and those below it have dozens of kinds, for a mistyped name and a lost connection alike.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            f"the data set {data.source}{data.subset and f' ({data.subset})'} cannot be loaded from the hub: {reason}; "
            "check config.data.source, config.data.subset and the network, or give a local folder."
        ) from error
    return _datasets_source(f"{data.source}{data.subset and ':' + data.subset}", loaded, data)


def _saved_source(folder: Path, data: ConfigDict) -> Source:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # Anything may be wrong with such a folder.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(f"the folder {folder} looks like one that `datasets` saved, but cannot be loaded: {reason}.") from error
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    return _datasets_source(folder.resolve().name, splits, data, folder)


def _datasets_source(name: str, splits: dict[Any, Any], data: ConfigDict, folder: Path | None = None) -> Source:
    readers = {str(split): partial(_read_dataset, part, f"split {str(split)!r} of {name}", data) for split, part in splits.items()}
    return Source(name, readers, folder)


def _read_dataset(part: Any, where: str, data: ConfigDict) -> Table:
    columns = named_columns(data)
    check_columns(part.column_names, columns, where)
    values = part.with_format(None).select_columns(list(columns.names))[:]
    feature = part.features[columns.label] if isinstance(columns.label, str) else None
    # Lists of classes have their names one level below.
    names = getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)
    return make_table(values.__getitem__, columns, where, tuple(names or ()))


def _read_shards(split: str, paths: list[Path], data: ConfigDict) -> Table:
    found = [re.search(r"-(\d+)-of-(\d+)\.", path.name) for path in paths]
    numbers = {int(shard[1]) for shard in found if shard}
    if len(paths) > 1 and len(numbers) < len(paths):
        raise UserError(f"{paths[0].parent} has several files for the split {split}: {', '.join(path.name for path in paths)}; keep one.")
    count = int(found[0][2]) if found[0] else 1
    if found[0] and numbers not in (set(range(count)), set(range(1, count + 1))):
        raise UserError(f"{paths[0].parent} has {len(paths)} of {count} files of the split {split}: {', '.join(path.name for path in paths)}; add the others.")
    tables = [read_file(path, *named_columns(data)) for path in paths]
    if len(tables) == 1:
        return tables[0]
    texts, labels, pairs = ([value for table in tables for value in getattr(table, name) or ()] for name in ("texts", "labels", "pairs"))
    where = f"split {split!r} of {paths[0].parent}"
    return Table(texts, labels, tables[0].label_names, where, pairs if data.pair_column else None)
