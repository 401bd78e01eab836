"""One configuration in one working directory: `open_run` hands it to the stages (stages.py), which take what they need from it and record what they found.
"""

import json
import tempfile
from dataclasses import dataclass, field, replace
from os.path import expanduser
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ddllm.artefact.base import Distilled
from ddllm.artefact.folder import load_distilled
from ddllm.checks import validate
from ddllm.config import resolve
from ddllm.distill.optimizers import check_derivative
from ddllm.distill.teacher import BRIEF, OWN, Teacher, load_teacher, make_teacher, none_there
from ddllm.errors import UserError
from ddllm.models.multi_head import MultiHead, activate_head
from ddllm.models.pretrained import fingerprint_pretrained
from ddllm.models.tasks import Regression
from ddllm.prepare import Prepared
from ddllm.prepare import prepare as prepare_parts
from ddllm.report.results import OWN_NAME, add_lists, add_rows, read_results
from ddllm.runtime.devices import describe_environment, set_up, user_cache
from ddllm.runtime.metrics import Metrics
from ddllm.runtime.processes import check_same, from_first, is_first, join
from ddllm.runtime.progress import say
from ddllm.runtime.storage import digest_files
from ddllm.runtime.workdir import CLASSES, CORPUS, MODEL, SCALE, Workdir
from ddllm.values import split_parts

TAUGHT = "corpus of the fine-tuned model in "  # before a folder: what `Workdir.keep_origin` notes of a teacher of other texts


@dataclass
class Run:
    """One configuration in one working directory.

    Attributes:
        config: the whole configuration.
        workdir: where everything is written, and locked for this run; of several processes, by the first one alone.
        distilled: another's result that is scored in place of the run's own (a folder, or a file of texts); None for the own one.
        name: of its rows.
    """

    config: ConfigDict
    workdir: Workdir
    distilled: Path | None = None
    name: str = OWN_NAME
    _prepared: Prepared | None = field(default=None, repr=False)

    @property
    def prepared(self) -> Prepared:
        """Data and model, read at first use."""
        if self._prepared is None:
            made = prepare_parts(self.config, self.workdir.tokens)
            self.keep_origin(origin_of(made))
            self._prepared = made
        return self._prepared

    def keep_origin(self, origin: dict[str, str]) -> None:
        """See `Workdir.keep_origin`."""
        from_first(lambda: self.workdir.keep_origin(origin))

    def teacher(self, prepared: Prepared | None = None) -> Teacher:
        """The teacher that config.distill.teacher asks for, of what is prepared here or is given: models that are fine-tuned for it, or those of runs.

        Raises:
            UserError: see `finetuned`.
        """
        config, prepared = self.config.distill, prepared or self.prepared

        def named(name: str) -> Teacher:
            if name == BRIEF:
                return make_teacher(prepared, self.workdir.teachers, self.metrics, "teacher")
            return self.finetuned(prepared, name, config.teacher_share)

        each = [named(name) for name in split_parts(config.teacher)]
        return each[0] if len(each) == 1 else replace(each[0], models=tuple(model for one in each for model in one.models), fingerprint="")

    def finetuned(self, prepared: Prepared, name: str = OWN, share: float = 1.0) -> Teacher:
        """The model that is fine-tuned on all texts, in this run or in that of the folder `name`; `share`: see `Teacher`.

        Says so where those are of another corpus or split than the run's, and notes it for `taught`.

        Raises:
            UserError: there is none, its fine-tuning has not come to its end, it is of another base model, other classes, numbers of another mean or
                deviation, or another shape, or it is another one than when this run was begun.
        """
        self.check_finetuned(prepared, name)
        teacher = load_teacher(prepared, self._at(name).finetune, share)
        if name != OWN:
            self.keep_origin({f"fine-tuned model in {name}": teacher.fingerprint})
            there = from_first(lambda: self._at(name).read_origin().get(CORPUS))  # older versions did not note it
            if there and there != prepared.tokens.fingerprint:
                say(
                    f"  the model in {name} was fine-tuned on another corpus, split or length than this run's; its training texts may be among the "
                    "test texts here, and what it teaches comes from them."
                )
                self.keep_origin({f"{TAUGHT}{name}": there})
        return teacher

    def taught(self) -> dict[str, Any]:
        """For the card of what is learned here: the corpora of its teachers, as far as they are others than this run's; nothing where there are none."""
        noted = from_first(self.workdir.read_origin)
        names = list(self.prepared.tokens.label_names)
        teachers = [{"corpus": corpus, "label_names": names} for what, corpus in noted.items() if what.startswith(TAUGHT)]
        return {"teachers": teachers} if teachers else {}

    def keep_sources(self) -> None:
        """Note what the files hold that config.distill names beside data and model, or make sure that distillation goes on with the same.

        The models of other runs are noted as they are loaded (see `finetuned`).

        Raises:
            UserError: one is another than when it was begun, or a checkpoint of config.distill.bodies is not there.
        """
        config, found = self.config.distill, {}
        initial = Path(expanduser(config.initial))
        if initial.suffix and initial.is_file():
            found[f"file of first examples, {config.initial}"] = digest_files([initial])
        if not from_first(self.workdir.distilled.exists):  # later they are not read any more
            found |= {f"body, {name}": fingerprint_pretrained(name) for name in config.bodies}
        self.keep_origin(found)

    def check_finetuned(self, prepared: Prepared, name: str = OWN) -> None:
        """Raise `UserError` where `finetuned` would, as far as can be told without reading parameters."""
        workdir = self._at(name)

        def check() -> None:
            there, here = workdir.read_origin(), origin_of(prepared)
            if there and there.get(CORPUS) != here[CORPUS]:  # older versions did not note it
                there.setdefault(SCALE, "")
            for what in (MODEL, CLASSES, SCALE) if name != OWN else ():
                if what in here and there.get(what, here[what]) != here[what]:
                    raise UserError(
                        f"the model in {workdir.path} was fine-tuned with another {what} than this run has; set config.distill.teacher to another run."
                    )
            # Its row is the last thing that the stage writes; checkpoints are there long before.
            rows = read_results(workdir.results)["rows"] if workdir.results.exists() else []
            if workdir.finetune.exists() and not any(row["name"] == "full" for row in rows):
                raise UserError(
                    f"fine-tuning on all texts has begun in {workdir.path}, but has not come to its end; "
                    "run the stage finetune there with the command that began it, or set config.distill.teacher to another run or to nothing."
                )

            if not workdir.finetune.exists():
                raise none_there(workdir.finetune)

        from_first(check)

    def _at(self, name: str) -> Workdir:
        return self.workdir if name == OWN else Workdir(Path(expanduser(name)), None)

    def metrics(self) -> Metrics:
        """Where figures of long work go."""
        if not is_first():
            return Metrics(None)
        return Metrics(self.workdir.metrics, self.workdir.events if self.config.runtime.tensorboard else None)


def open_run(config: ConfigDict, folder: str | Path, command: str = "", distilled: str | Path = "", name: str = "") -> Run:
    """Check the configuration, set the devices up, join other processes of the run, and open the working directory.

    Raises:
        UserError: a value cannot be meant, other processes do not come, the folder holds a different run, or there is nothing at `distilled`.
    """
    validate(config)
    set_up(config.runtime)
    join(config.runtime)
    check_derivative(config.distill.inner_optimizer, "config.distill.inner_optimizer")
    resolved = resolve(config)
    if is_first():
        if distilled and not Path(distilled).exists():
            raise UserError(f"there is nothing at {distilled}; give --distilled a distilled folder, or a file of texts and labels.")
        workdir = Workdir.open(Path(folder), resolved, command)
    else:
        workdir = Workdir.elsewhere(user_cache("processes") or Path(tempfile.mkdtemp(prefix="ddllm-")))
    # Where a process stands among the others is its own, everything else is common.
    check_same("the configuration", {**resolved, "runtime": {}})
    return Run(config, workdir, Path(distilled), name or Path(distilled).name) if distilled else Run(config, workdir)


def origin_of(prepared: Prepared) -> dict[str, str]:
    """What is prepared, by fingerprints: what a working directory was begun with."""
    tokens, learner = prepared.tokens, prepared.learner
    classes = json.dumps([learner.task.name, learner.head.kind, list(tokens.label_names)])
    origin = {CORPUS: tokens.fingerprint, MODEL: prepared.pretrained.fingerprint, CLASSES: classes}
    if isinstance(learner.task, Regression):
        origin[SCALE] = f"{learner.task.mean:.6g}, {learner.task.deviation:.6g}"
    return origin


def load_scored(run: Run) -> tuple[Prepared, Distilled]:
    """What the distill stage of this run exported, or the folder given in its place; and what is prepared, with the learner that it was distilled for.

    Says so where it was distilled from another corpus or split than the run's.

    Raises:
        UserError: distillation has not run to its end, or the result is no folder, or belongs to other weights or other classes.
    """
    folder, prepared = run.distilled or run.workdir.distilled, run.prepared

    def load() -> Distilled:
        if not folder.exists():
            raise UserError(f"there is no distilled data set in {folder}; run --mode=distill first.")
        if not folder.is_dir():
            raise UserError(f"{folder} holds texts, which have no recipe that could be varied; only --mode=evaluate scores them.")
        return load_distilled(folder)

    distilled = from_first(load)
    distilled.check_base(prepared.pretrained)
    if not of_same_texts(prepared, distilled):
        say(
            f"  {folder} was distilled from another corpus, split or length than this run's, or merged of a set or taught by a model that was; "
            "its training texts may be among the test texts here."
        )
    learner = distilled.learner(prepared.pretrained)
    tokens, asked = prepared.tokens, (prepared.learner.task.name, bool(run.config.data.pair_column))
    if isinstance(learner.task, MultiHead):
        return replace(prepared, learner=activate_head(learner, str(folder), distilled.label_names, tokens.label_names, tokens.name)), distilled
    distilled.check_data(str(folder), learner.task.name, tokens.name, tokens.label_names, *asked)
    return replace(prepared, learner=learner), distilled


def of_same_texts(prepared: Prepared, distilled: Distilled) -> bool:
    """Whether a data set was distilled from the very texts, split as they are, that are prepared, and by teachers of these, as far as its card knows.

    Of sets that were merged into it, those of other classes say nothing: their texts are no corpus that could have been split otherwise.
    """
    tokens = prepared.tokens
    return all(texts["corpus"] == tokens.fingerprint for texts in distilled.texts if sorted(texts["label_names"]) == sorted(tokens.label_names))


def record(run: Run, rows: list[dict[str, Any]], lists: dict[str, list[dict[str, Any]]] | None = None) -> None:
    """Put rows, and lists of others about the distilled data set, into results.json, with the configuration and the surroundings."""
    if not is_first():
        return
    tokens = run.prepared.tokens
    shown = run.prepared.learner.task.shown(tokens.test.labels, len(tokens.label_names))
    notes = {
        "data": tokens.name,
        "model": run.prepared.pretrained.name,
        "texts": tokens.notes,
        "figures": list(dict.fromkeys([*shown, run.prepared.metric])),
    }
    surroundings = resolve(run.config), describe_environment() | notes
    add_rows(run.workdir.results, rows, *surroundings)
    if lists:
        add_lists(run.workdir.results, run.name, lists, *surroundings)
