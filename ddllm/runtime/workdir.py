"""A run's working directory: where each stage's files lie, and that one folder holds one run; hands on paths.

A folder belongs to the configuration with which something was first computed there. The same configuration resumes; another one is refused, so
that files of two runs never mix. Where no more has been computed than fine-tuning on all texts, what that does not depend on may still change. A
lock keeps two processes out of one folder; the operating system drops it when the process ends, however it ends.
"""

import fcntl
import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from flax.traverse_util import flatten_dict

from ddllm.config import default_config
from ddllm.errors import UserError
from ddllm.runtime.storage import guard_storage, read_json, write_json

__all__ = ["Workdir", "guard_storage", "read_json", "write_json"]

# Whether --mode=all has a stage changes nothing of what the stage finds.
STAGE_SWITCHES = tuple(f"evaluate.{name}" for name in ("text", "robustness", "analyse", "look", "prompt", "privacy"))
# What analyses of a finished set are asked for: their lists are found as a whole, and rows say what they come from.
ASKED = ("transfer", "variation_draws", "adam_rates", "short_finetunings")
ANALYSES = ("report.", "prompt.", "privacy.", *(f"evaluate.{name}" for name in ASKED), "text.judge")
# Of the stage continual: which figures there will be; each method and seed keeps its own.
FIGURES = ("continual.methods", "continual.seeds")
# Keys that may differ between starts in one folder, since nothing that is kept depends on them; an ending dot stands for a whole section.
WITHOUT_EFFECT = ("runtime.", *ANALYSES, *FIGURES, *STAGE_SWITCHES, "distill.checkpoint_every", "distill.checkpoints_kept")
# Sections that fine-tuning on all texts does not depend on, but for the metric, which chooses the validation that it keeps.
BESIDE_FINETUNING = ("name", "distill", "evaluate", "text", "prompt", "merge", "continual", "privacy", "report")
METRIC = "evaluate.metric"
MOST_DIFFERENCES = 5
LOCK = ".lock"
CONFIG, COMMANDS, TOKENS = "config.json", "commands.txt", "tokens"
FINETUNE, RESULTS, METRICS, EVENTS = "finetune", "results.json", "metrics.jsonl", "events"
TABLE, PAGE = "results.md", "report.html"
FULL = "full"  # the row of fine-tuning on all texts
LOG, MEMBER = "log.txt", "member.json"  # what a sweep puts beside the files of each of its runs
# What files held that a configuration only names, by `keep_origin`; the folder of another run is asked for these.
ORIGIN, CORPUS, MODEL, CLASSES = "origin.json", "corpus", "pretrained model", "list of classes or head"
SCALE = "mean or deviation of the labels"  # of a regression, whose head is in standard deviations from the mean
SETS, TASKS = "list of distilled data sets", "sequence of tasks"


class Workdir:
    """The paths of one run. Made by `Workdir.open`; use it as a context manager, or `close` it, to let go of the lock."""

    def __init__(self, path: Path, lock: TextIO | None):
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, path: Path | str, config: dict[str, Any], command: str) -> Self:
        """Make the folder, or come back to it, and lock it.

        Args:
            path: the folder; parents are made as well.
            config: the resolved configuration (plain dicts), kept in config.json.
            command: the command line, appended to commands.txt with the time, so that a person sees how the folder came about.

        Raises:
            UserError: the folder cannot be written, is in use by another run, holds other files, or belongs to another configuration.
        """
        path = Path(path)
        with guard_storage(path):
            try:
                path.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError) as error:
                raise UserError(f"{error.filename} is a file, not a folder: use another --workdir.") from error
            except OSError as error:
                raise UserError(f"{path} cannot be made ({error.strerror}): use another --workdir.") from error
            config_path = path / CONFIG
            if not config_path.exists() and any(not _is_ours(entry.name) for entry in path.iterdir()):
                raise UserError(
                    f"{path} holds other files but no config.json, so it is not a run's folder: use another --workdir or an empty folder."
                )
            workdir = cls(path, _lock(path))
            try:
                begun = config_path.exists() and any(not _is_beginning(entry.name) for entry in path.iterdir())
                if begun:
                    check_same_run(path, config)
                else:
                    # Nothing has been computed: a mistake in what was read may be mended and the command given once more.
                    (path / ORIGIN).unlink(missing_ok=True)
                if not begun or _is_finetuned_alone(path):
                    write_json(config_path, config)
                with open(path / COMMANDS, "a", encoding="utf-8") as file:
                    file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {command}\n")
            except BaseException:
                workdir.close()
                raise
        return workdir

    @classmethod
    def elsewhere(cls, scratch: Path) -> Self:
        """What a process that does not own the run's folder has in its place: nothing but tokens is ever written there, so it needs no lock."""
        return cls(scratch, None)

    def keep_origin(self, origin: dict[str, str]) -> None:
        """Note what the folder is begun with, or make sure that it goes on with the same: files may change under one name.

        Args:
            origin: fingerprints, which tell things from all others, by what these are called for people, without an article.

        Raises:
            UserError: one is another than when the folder was begun.
        """
        known = self.read_origin()
        for what, fingerprint in origin.items():
            if known.get(what, fingerprint) != fingerprint:
                raise UserError(
                    f"{self.path} was begun with another {what}: the files that the configuration or the command names have changed since. "
                    "Use another --workdir or remove the folder."
                )
        if not origin.keys() <= known.keys():
            write_json(self.path / ORIGIN, known | origin)

    def read_origin(self) -> dict[str, str]:
        """What `keep_origin` has noted."""
        return read_json(self.path / ORIGIN) if (self.path / ORIGIN).exists() else {}

    def close(self) -> None:
        """Let other runs use the folder."""
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / CONFIG

    @property
    def tokens(self) -> Path:
        """Folder of the tokenised corpus."""
        return self.path / TOKENS

    @property
    def finetune(self) -> Path:
        """Folder of fine-tuning on full data."""
        return self.path / FINETUNE

    @property
    def short(self) -> Path:
        """Folder of shorter fine-tunings, of the stage analyse."""
        return self.path / "short-finetune"

    @property
    def teachers(self) -> Path:
        """Folder of the fine-tuning of models that teach and are not scored."""
        return self.path / "teachers"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints of distillation."""
        return self.path / "checkpoints"

    @property
    def bodies(self) -> Path:
        """Folder of the partly fine-tuned bodies that distillation starts from."""
        return self.path / "bodies"

    @property
    def distilled(self) -> Path:
        """Folder of the exported distilled data set."""
        return self.path / "distilled"

    @property
    def prompt(self) -> Path:
        """Folder of the answers of language models, and of soft prompts."""
        return self.path / "prompt"

    @property
    def text(self) -> Path:
        """Folder of the distilled texts, one for each route."""
        return self.path / "text"

    @property
    def text_work(self) -> Path:
        """Folder of the checkpoints of these."""
        return self.path / "text-checkpoints"

    @property
    def results(self) -> Path:
        return self.path / RESULTS

    @property
    def metrics(self) -> Path:
        return self.path / METRICS

    @property
    def curve(self) -> Path:
        return self.path / "curve.png"

    @property
    def look(self) -> Path:
        """What the stage look has found, for the page."""
        return self.path / "look.json"

    @property
    def privacy(self) -> Path:
        """Parts of the stage privacy that have been found."""
        return self.path / "privacy.json"

    @property
    def shadows(self) -> Path:
        """Folder of the shadow sets of the stage privacy."""
        return self.path / "shadows"

    @property
    def events(self) -> Path:
        """Folder of TensorBoard event files."""
        return self.path / EVENTS

    def contents(self) -> list[tuple[str, Path]]:
        """What is there for a person to open, as (what it is, path)."""
        known = (
            ("results", self.results),
            ("the same as a table", self.path / TABLE),
            ("the same as a page", self.path / PAGE),
            ("examples to look at", self.path / "look.md"),
            ("curve", self.curve),
            ("distilled data set", self.distilled),
            ("distilled texts", self.text),
            ("checkpoints", self.checkpoints),
            ("prompts and answers", self.prompt),
            ("figures of every step", self.metrics),
            ("TensorBoard events", self.events),
            ("configuration", self.config),
        )
        return [(name, path) for name, path in known if path.exists()]


def _is_ours(name: str) -> bool:
    # Locks and parts of files are left behind when a start was killed before config.json was in place.
    return name in (LOCK, LOG, MEMBER) or name.startswith(".config.")


def _is_beginning(name: str) -> bool:
    return _is_ours(name) or name in (CONFIG, COMMANDS, ORIGIN, TOKENS)


def _lock(path: Path) -> TextIO:
    file = open(path / LOCK, "a", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise UserError(f"Another run is working in {path}: wait until it ends, stop it, or use another --workdir.") from error
    except BaseException:
        file.close()
        raise
    return file


def _is_finetuned_alone(path: Path) -> bool:
    """Whether no more has been computed in a folder than fine-tuning on all texts, or a part of that."""
    names = {entry.name for entry in path.iterdir() if not _is_beginning(entry.name)}
    if FINETUNE not in names or not names <= {FINETUNE, RESULTS, METRICS, EVENTS, TABLE, PAGE}:
        return False
    results = read_json(path / RESULTS) if RESULTS in names else {"rows": []}
    if not isinstance(results, dict) or not results.keys() <= {"config", "rows", "environment"}:
        return False
    rows = results.get("rows")
    return isinstance(rows, list) and all(isinstance(row, dict) and row.get("name") == FULL for row in rows)


def check_same_run(path: Path, here: dict[str, Any]) -> None:
    """Make sure that the configuration kept in a folder is the one at hand, keys without effect on what is there left out.

    A key that the folder's version did not have yet is no difference at its default, which leaves a run what it was.

    Raises:
        UserError: it is not; the sentence names the keys.
    """
    there = read_json(path / CONFIG)
    if not isinstance(there, dict):
        raise UserError(f"{path / CONFIG} holds no configuration: use another --workdir or remove the folder.")
    without_effect = WITHOUT_EFFECT
    if _is_finetuned_alone(path):
        without_effect += tuple(f"{section}." for section in BESIDE_FINETUNING)
    # As it comes back from JSON, which has lists for tuples.
    old, new = (flatten_dict(json.loads(json.dumps(config)), sep=".") for config in (there, here))
    earlier = flatten_dict(json.loads(default_config().to_json()), sep=".") | old
    decisive = [key for key in {**new, **old} if key == METRIC or not _is_among(key, without_effect)]
    keys = [key for key in decisive if earlier.get(key, "absent") != new.get(key, "absent")]
    if not keys:
        return
    named = [f"{key} is {old.get(key, 'absent')!r} there and {new.get(key, 'absent')!r} here" for key in keys[:MOST_DIFFERENCES]]
    more = f" (and {len(keys) - MOST_DIFFERENCES} more keys)" if len(keys) > MOST_DIFFERENCES else ""
    raise UserError(
        f"{path} belongs to a run with another configuration: {'; '.join(named)}{more}. Use another --workdir or remove the folder."
    )


def _is_among(key: str, known: tuple[str, ...]) -> bool:
    return any(key.startswith(name) if name.endswith(".") else key == name for name in known)
