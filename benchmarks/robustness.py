"""Distilled sets trained on in other ways than their recipe says: results/ROBUSTNESS.md and results/ROBUSTNESS.json.

    python -m benchmarks.robustness [--datasets sst2] [--models embedded] [--sets recipe,robust_steps] [--per-class 1] [--seeds 0] [--transfer FOLDER]
                                    [--data FOLDER] [--work runs/table] [--minutes N] [--only-table]

The first set is the table's own, from the same folders; the robust ones are learned with perturbations, in as many outer steps. Each is then
trained on with every variation of the stage `robustness`, and with --transfer on other encoders too. Runs are commands of their own and resume, as those of
the table.
"""

import statistics
import sys
from dataclasses import replace

from benchmarks.entries import Entry, by_setting, called, find_entry, note_devices, over_seeds, settings_of, write_entries
from benchmarks.jobs import DISTILLED, ROOT, Base, Job
from benchmarks.options import add_smoke, fill_or_try, listed, make_parser, number, read_options
from ddllm.main import exit_status
from ddllm.report.results import read_results

JSON, MARKDOWN = ROOT / "results" / "ROBUSTNESS.json", ROOT / "results" / "ROBUSTNESS.md"
# Name of each set: what it means, and its keys of config.distill.
SETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "recipe": ("the recipe's own", ()),
    "robust": ("learned with perturbed rates and positions", ("robust=('rates','positions')",)),
    "robust_steps": ("and with passes and single examples too", ("robust=('rates','positions','passes','examples')",)),
}
SETTING = ("dataset", "model", "examples_per_class", "outer_steps")


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status: 1 where a run has failed."""
    arguments = sys.argv[1:] if arguments is None else arguments

    def work() -> int:
        parser = make_parser("benchmarks.robustness", "runs/table")
        parser.set_defaults(datasets="sst2", seeds="0")
        parser.add_argument("--sets", default=",".join(SETS), help=f"columns, of {', '.join(SETS)}")
        parser.add_argument("--per-class", default="1", help="examples per class")
        parser.add_argument("--transfer", default="", help="other encoders to train on the sets too: hub names or folders")
        add_smoke(parser)
        options = read_options(parser, arguments)
        sets, count = listed(options.sets, "--sets", tuple(SETS)), number(options.per_class, "--per-class", 1)
        transfer = tuple(filter(None, options.transfer.split(",")))
        jobs = []
        for seed in options.seeds:
            for dataset in options.datasets:
                for model in options.models:
                    jobs += plan(Base.below(options.work, dataset, model, options.data, options.alike), sets, count, seed, transfer, options.smoke)
        return fill_or_try(options, jobs, JSON, MARKDOWN, enter, write, markdown)

    return exit_status(work, "the same command does what is left")


def plan(base: Base, sets: list[str], count: int, seed: int, transfer: tuple[str, ...], smoke: bool) -> list[Job]:
    """The runs of one seed: the teacher, each set, and what is left of it away from its recipe.

    Args:
        base: data set and model.
        sets: names from `SETS`.
        count: examples per class.
        seed: of everything.
        transfer: other encoders, as in config.evaluate.transfer.
        smoke: few steps on few texts, without a teacher.
    """
    smoked, alone = (",smoke", ("--config.distill.teacher=",)) if smoke else ("", ())
    jobs = [] if smoke else [base.teachers(seed)]
    for name in sets:
        changes = tuple(f"--config.distill.{key}" for key in SETS[name][1])
        kind = {"recipe": DISTILLED}.get(name, name.replace("_", "-"))
        if smoke:
            made = base.job(f"{kind}-smoke", count, (seed,), ["--mode=distill", *alone, *changes], f"recipe=ddllm,examples={count}{smoked}")
        else:
            made = base.distilling(DISTILLED, count, seed, changes, kind)
        line = ["--mode=robustness", f"--distilled={made.member.folder / 'distilled'}", *alone]
        line += [f"--config.evaluate.transfer={transfer!r}"] if transfer else []
        scored = base.job(f"robustness-{kind}{'-smoke' * smoke}", count, (seed,), line, f"recipe=ddllm,examples={count}{smoked}")
        jobs += [made, replace(scored, change=name)]
    return jobs


def enter(rows: list[Entry], job: Job) -> None:
    """Put a finished run's figures into the rows, in the place of those that other settings gave; distilling has none here."""
    if not job.change:
        return
    results, config = read_results(job.member.folder / "results.json"), job.member.config
    settings = {key: value for key, value in settings_of(results["config"], DISTILLED).items() if key != "evaluate.transfer"}
    for found in results["robustness"]:
        key = {"dataset": job.dataset, "model": job.model, "set": job.change, "variation": found["variation"]}
        key |= {"examples_per_class": job.per_class, "outer_steps": config.distill.outer_steps}
        row = find_entry(rows, key, settings, ("test", "change"))
        seed = str(job.seeds[0])
        row["test"][seed], row["change"][seed] = found["accuracy_mean"], found["change"]
        row |= {"texts": found["texts"], "note": found["note"]}
        note_devices(row, job.seeds, results["environment"])


def write(rows: list[Entry]) -> None:
    """Write both files; variations stay in the order in which they are run."""
    place = {name: index for index, name in enumerate(SETS)}
    rows.sort(key=lambda row: (*(row[part] for part in SETTING), place[row["set"]]))
    write_entries(JSON, "rows", rows, MARKDOWN, markdown(rows))


def markdown(rows: list[Entry]) -> str:
    """A table for each data set, model and size: a row for every variation, a column for each set."""
    lines = [
        "# Trained on in other ways than the recipe says",
        "",
        "Test accuracy in %, mean ± standard deviation over seeds (their number), and in brackets the points that it is from the same set trained on as its",
        "recipe says. Written by `python -m benchmarks.robustness`; what each variation is, and what was tuned for it on validation texts, is in",
        "ROBUSTNESS.json.",
    ]
    for (dataset, model, count, steps), found in by_setting(rows, SETTING):
        here = {(row["variation"], row["set"]): row for row in found}
        names = [name for name in SETS if any(name == given for _, given in here)]
        lines += ["", f"## {dataset}, {called(model)}, {count} per class, {steps} outer steps", ""]
        lines += [f"| | {' | '.join(SETS[name][0] for name in names)} |", f"|---|{'---:|' * len(names)}"]
        for variation in dict.fromkeys(variation for variation, _ in here):
            lines.append(f"| {variation} | {' | '.join(_figure(here.get((variation, name))) for name in names)} |")
    return "\n".join(lines) + "\n"


def _figure(row: Entry | None) -> str:
    if row is None:
        return "–"
    return f"{over_seeds(row['test'].values())} [{statistics.fmean(row['change'].values()):+.1f}]"


if __name__ == "__main__":
    sys.exit(main())
