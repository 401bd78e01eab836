"""The runs behind the table: each an ordinary command in a folder of its own, that a person could type.

| job | its command | cells that it fills |
|---|---|---|
| full | --mode=finetune | full |
| teachers | --mode=finetune, for one epoch from three seeds | none: they teach |
| select | --mode=select | random, k_centers, herding, and in runs of their own k_means and gradient_norm: one draw for each seed |
| a recipe | --mode=distill,evaluate | the recipe's own, "distilled" for ours, "no_gains" for ours without them |
| submitted | --mode=evaluate --distilled FILE --name NAME | NAME: another's texts or folder under docs/PROTOCOL.md |
"""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.entries import TEACHERS, called
from ddllm.checks import validate
from ddllm.distill.teacher import briefly
from ddllm.errors import UserError
from ddllm.main import parse
from ddllm.members import Member
from ddllm.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
EMBEDDED = "embedded"
DATASETS = ("rotten_tomatoes", "sst2", "ag_news", "imdb")
SELECTIONS = ("random", "k_centers", "herding")
FURTHER = ("k_means", "gradient_norm")  # selections that a table has where it is asked for them
DISTILLED = "distilled"  # what our recipe's cells are named
NO_GAINS = "no_gains"
SUBMITTED = "submitted"
DEFAULT_NAMES = ("full", *SELECTIONS, DISTILLED, *(name for name in RECIPES if name != "ddllm"))
NAMES = ("full", *SELECTIONS, *FURTHER, *(name for name in DEFAULT_NAMES if name not in ("full", *SELECTIONS)), NO_GAINS)
# What a data set's folder of files has for the hub's splits and columns.
LOCAL = {
    "sst2": {"validation": "validation", "test": "test", "text_column": "text"},
    "rotten_tomatoes": {"validation": "validation"},
}
# What others' recipes are given on the embedded encoder, chosen on validation texts of SST-2 in runs of 200 outer steps, as their authors search too. As
# published, Maekawa et al.'s stays at chance there (0.50 to 0.55, with inner rates of 1e-2, 0.1 and 1 at first, and outer rates of 1e-2 and 0.1).
TUNED = {("maekawa2023", EMBEDDED): ("initial=real", "initial_rate=0.1", "attention_weight=1.0")}

PUBLISHED = "dilm_synthetic"  # a folder beside the data sets', with the texts that DiLM's authors published
BUDGETS = (5, 10, 20)  # of those texts, examples per class

PACKAGED = "--config.data.source=embedded"  # Rotten Tomatoes as a package has it, split by film
UNTAUGHT = "--config.distill.teacher="  # instead of the recipe's teachers


@dataclass(frozen=True)
class Job:
    """One run of the table.

    Attributes:
        dataset: a file of configs/, without its ending.
        model: as in config.model.name, but of a local folder its name alone.
        kind: "full", "teachers", "select", "submitted", "distilled" or the name of another recipe; of an ablation, its folder's name.
        per_class: examples per class; None for full data.
        seeds: the seeds that it fills cells for; one, save for "select".
        member: the run.
        change: of an ablation, what it changes in our recipe; of a submission, its name.
    """

    dataset: str
    model: str
    kind: str
    per_class: int | None
    seeds: tuple[int, ...]
    member: Member
    change: str = ""

    @property
    def command(self) -> str:
        """What a person would type, without the folders of one machine."""
        apart = ("--workdir", "--distilled", "--sets", "--config.data.source", "--config.distill.teacher", "--config.continual.tasks")
        kept = [part for part in self.member.line if part in (UNTAUGHT, PACKAGED) or not part.startswith(apart)]
        given = self.member.config.model.name
        return " ".join(["python -m ddllm.main", *map(quoted, kept)]).replace(f"{ROOT}/", "").replace(f"model={given}", f"model={self.model}")


def plan_jobs(
    datasets: list[str],
    models: list[str],
    names: list[str],
    per_class: list[int],
    seeds: list[int],
    local: Path | None,
    work: Path,
    changes: tuple[str, ...] = (),
    outer_steps: int = 0,
) -> list[Job]:
    """All runs that the cells need, first seeds first, so that a table with few seeds is complete early.

    Args:
        datasets: names from `DATASETS`.
        models: hub names, folders or "embedded".
        names: of the cells' rows, from `NAMES`.
        per_class: numbers of examples per class.
        seeds: of the runs.
        local: a folder with a folder of files for each data set, used where it has one; else the hub. Rotten Tomatoes comes from its
            package where the model does.
        work: where the runs' folders go.
        changes: options of the command that each run has.
        outer_steps: of every distillation; 0: as the data set's configuration says.
    """
    jobs = []
    for seed in seeds:
        for dataset in datasets:
            for model in models:
                base = Base.below(work, dataset, model, local, changes)
                wanted = [name for name in (DISTILLED, *RECIPES) if name in names]
                if "full" in names:
                    jobs.append(base.full(seed))
                if {DISTILLED, NO_GAINS} & set(names):
                    jobs.append(base.teachers(seed))
                for count in per_class:
                    jobs += [base.distilling(name, count, seed, outer_steps=outer_steps) for name in wanted]
                    if NO_GAINS in names:
                        jobs.append(base.distilling(DISTILLED, count, seed, ("--config.distill.gains=False",), NO_GAINS, outer_steps))
                    if seed == seeds[0]:
                        chosen = tuple(name for name in SELECTIONS if name in names)
                        if chosen:
                            jobs.append(base.selecting(chosen, count, tuple(seeds)))
                        jobs += [base.selecting((name,), count, tuple(seeds), f"select-{name}") for name in FURTHER if name in names]
    return jobs


def quoted(part: str) -> str:
    """A part of a command as a person would write it in a shell: lists of names, which have quotation marks, in double ones."""
    return f'"{part}"' if "'" in part and not set(part) & set('"$`\\!') else shlex.quote(part)


@dataclass(frozen=True)
class Base:
    """What the jobs of one data set and model share; `changes` are options of the command that each of them has."""

    dataset: str
    model: str
    local: Path | None
    folder: Path
    changes: tuple[str, ...] = ()

    @classmethod
    def below(cls, work: Path, dataset: str, model: str, local: Path | None, changes: tuple[str, ...] = ()) -> "Base":
        """With runs in a folder of its own below another."""
        return cls(dataset, model, local, work / f"{dataset}-{called(model).replace('/', '-')}", changes)

    def published(self, count: int) -> Path | None:
        """The file of texts that DiLM's authors published for this data set and budget, where it is there."""
        file = self.local / PUBLISHED / f"{self.dataset}_dpc{count}.jsonl" if self.local else None
        return file if file and file.is_file() else None

    def full(self, seed: int) -> Job:
        """Fine-tuning on all texts."""
        return self.job("full", None, (seed,), ["--mode=prepare,finetune"])

    def teachers(self, seed: int) -> Job:
        """The models that our recipe fine-tunes briefly for each set, made once for all sets of a seed."""
        config = self.job(DISTILLED, 1, (seed,), ["--mode=distill"], "recipe=ddllm,examples=1").member.config
        brief = briefly(config).finetune
        changes = [f"--config.finetune.{key}={brief[key]}" for key in ("epochs", "seeds", "validations", "checkpoints")]
        return self.job(TEACHERS, None, (seed,), ["--mode=prepare,finetune", *changes])

    def distilling(self, name: str, count: int, seed: int, changes: tuple[str, ...] = (), kind: str = "", outer_steps: int = 0) -> Job:
        """A distillation by a recipe, and its evaluation; or by a changed one, as another kind of run. Each number of outer steps has folders of its own."""
        recipe = "ddllm" if name == DISTILLED else name
        line = ["--mode=distill,evaluate"]
        if recipe == "ddllm" and not any(change.startswith(UNTAUGHT) for change in changes):
            line.append(f"{UNTAUGHT}{self.teachers(seed).member.folder}")
        line += [f"--config.distill.{change}" for change in TUNED.get((recipe, self.model), ())]
        line += changes
        folder = kind = kind or name
        if outer_steps:
            line.append(f"--config.distill.outer_steps={outer_steps}")
            folder = f"{kind}-{outer_steps}"
        return replace(self.job(folder, count, (seed,), line, f"recipe={recipe},examples={count}"), kind=kind)

    def submitted(self, name: str, path: str, seed: int) -> Job:
        """Another's texts or folder, scored by itself."""
        line = ["--mode=evaluate", f"--distilled={path}", f"--name={name}"]
        return replace(self.job(f"{SUBMITTED}-{name}", None, (seed,), line), kind=SUBMITTED, change=name)

    def selecting(self, chosen: tuple[str, ...], count: int, seeds: tuple[int, ...], folder: str = "select") -> Job:
        """Selections of real examples, all seeds in one run, since they are tuned together."""
        options = [f"--config.evaluate.selections={chosen!r}", f"--config.evaluate.selection_draws={len(seeds)}"]
        return replace(self.job(folder, count, seeds, ["--mode=select", *options], f"examples={count}"), kind="select")

    def job(self, kind: str, count: int | None, seeds: tuple[int, ...], line: list[str], arguments: str = "") -> Job:
        """A run, its configuration checked."""
        marks = ",".join(filter(None, (f"model={self.model}", arguments, f"seed={seeds[0]}")))
        name = "-".join(filter(None, (kind, f"{count}" if count else "", f"seed{'+'.join(map(str, seeds))}")))
        folder = self.folder / name
        line = [f"--config={CONFIGS / self.dataset}.py:{marks}", f"--workdir={folder}", *self._source(), *self.changes, *line]
        command = parse(line)
        try:
            validate(command.config)
        except UserError as error:
            raise UserError(f"{self.dataset}, {kind}: {error}") from None
        title = {"dataset": self.dataset, "model": called(self.model), "kind": kind, "examples": str(count or "all"), "seed": str(seeds[0])}
        return Job(self.dataset, called(self.model), kind, count, seeds, Member(title, folder, line, command.config, command.stages))

    def _source(self) -> list[str]:
        if self.dataset == "rotten_tomatoes" and self.model == EMBEDDED:
            return [PACKAGED, "--config.data.validation=", "--config.data.test="]
        if self.local is None or not (self.local / self.dataset).is_dir():
            return []
        keys = {"source": str(self.local / self.dataset), **LOCAL.get(self.dataset, {})}
        return [f"--config.data.{key}={value}" for key, value in keys.items()]
