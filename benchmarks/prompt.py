"""Few-shot prompts by where their examples come from, and soft prompts, on the same test texts: results/PROMPTS.md and results/PROMPTS.json.

    python -m benchmarks.prompt [--datasets sst2] [--models embedded] [--language-model embedded] [--transfer MODEL,…]
                                [--sources none,random,k_centers,dilm,distilled,soft] [--text FOLDER] [--per-class 1,2,4] [--texts 100] [--orders 3]
                                [--outer-steps 300] [--seeds 0,1,2] [--smoke] [--data FOLDER] [--work runs/prompt] [--minutes N] [--only-table]

Distilled examples are the nearest tokens of a set with as many per class as the longest prompt has, one set for each seed, by our recipe without a teacher;
shorter prompts have a part of them. Real and published texts are drawn as often as there are seeds, in so many orders each; what is the same in every draw
stands in as many orders as that makes together. The texts that DiLM's authors published take part where --data has them.
Models of --transfer are asked with the same prompts, the nearest tokens of the soft prompts among them that were learned for --language-model.
Runs are commands of their own and resume, as those of the table; inside them every answer is kept.
"""

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.entries import Entry, by_setting, called, find_entry, note_devices, settings_of, write_entries
from benchmarks.jobs import BUDGETS, DISTILLED, ROOT, UNTAUGHT, Base, Job
from benchmarks.options import add_smoke, fill_or_try, listed, make_parser, number, numbers, read_options
from ddllm.errors import UserError
from ddllm.main import exit_status
from ddllm.prompt.causal import short_name
from ddllm.prompt.evaluate import AS_TEXT, NONE, SOFT
from ddllm.report.results import read_results

JSON, MARKDOWN = ROOT / "results" / "PROMPTS.json", ROOT / "results" / "PROMPTS.md"
TEXT, FILE = "text", "text.jsonl"  # what routes write into the folder of a text
PUBLISHED = "dilm"
LEARNED_FOR = ", learned for "
# Name of each source: its rows in results, with what they mean.
SOURCES: dict[str, dict[str, str]] = {
    "none": {NONE: "no examples"},
    "random": {"random": "random sentences"},
    "k_centers": {"k_centers": "k-centers sentences"},
    PUBLISHED: {PUBLISHED: "texts published for DiLM"},
    DISTILLED: {DISTILLED: "nearest tokens of a distilled set"},
    TEXT: {TEXT: "distilled text"},
    "soft": {SOFT: "soft prompt", AS_TEXT: "the nearest tokens of soft prompts"},
}
ROWS = {row: told for rows in SOURCES.values() for row, told in rows.items()}
SETTING = ("dataset", "model", "language_model", "texts")
ALL = "all"  # stands for the seeds of runs that have them together
SOFT_TOKENS = 16
SMOKE = ("texts=4", "orders=1", "soft_steps=4", "soft_batch_size=2", "soft_validation_texts=4", "soft_validations=1")


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status: 1 where a run has failed."""
    arguments = sys.argv[1:] if arguments is None else arguments

    def work() -> int:
        parser = make_parser("benchmarks.prompt", "runs/prompt")
        parser.set_defaults(datasets="sst2")
        parser.add_argument("--language-model", default="embedded", help="who is prompted: hub name, folder, GGUF file or 'embedded'")
        parser.add_argument("--transfer", default="", help="other language models that are asked with the same prompts, after a comma each")
        own = [name for name in SOURCES if name != TEXT]
        parser.add_argument("--sources", default=",".join(own), help=f"of examples, of {', '.join(own)}")
        parser.add_argument("--text", default="", metavar="FOLDER", help=f"a text that a route wrote ({FILE} in it), as a source too")
        parser.add_argument("--per-class", default="1,2,4", help="examples per class in a prompt")
        parser.add_argument("--texts", default="100", help="test texts")
        parser.add_argument("--orders", default="3", help="of the examples in each draw")
        parser.add_argument("--outer-steps", default="300", help="of every distillation")
        add_smoke(parser)
        options = read_options(parser, arguments)
        sources, counts = listed(options.sources, "--sources", tuple(own)), numbers(options.per_class, "--per-class", 1)
        given = ((options.texts, "--texts"), (options.orders, "--orders"), (options.outer_steps, "--outer-steps"))
        texts, orders, outer_steps = (number(text, option, 1) for text, option in given)
        file = Path(options.text) / FILE if options.text else None
        if file and not file.is_file():
            raise UserError(f"--text {options.text} has no {FILE}; give the folder that a route of --mode=text wrote, such as <workdir>/text/straight_through.")
        jobs = []
        for dataset in options.datasets:
            for model in options.models:
                base = Base.below(options.work, dataset, model, options.data, options.alike)
                enough = (found for budget in BUDGETS if budget >= max(counts) and (found := base.published(budget)))
                files = {PUBLISHED: next(enough, None), TEXT: file}
                here = [name for name in [*sources, TEXT] if files.get(name, name)]
                prompted = options.language_model, tuple(filter(None, options.transfer.split(","))), texts, orders
                jobs += plan(base, here, files, counts, options.seeds, outer_steps, *prompted, options.smoke)
        return fill_or_try(options, jobs, JSON, MARKDOWN, enter, write, markdown)

    return exit_status(work, "the same command does what is left")


def plan(
    base: Base,
    sources: list[str],
    files: dict[str, Path | None],
    counts: list[int],
    seeds: list[int],
    outer_steps: int,
    language_model: str,
    transfer: tuple[str, ...],
    texts: int,
    orders: int,
    smoke: bool,
) -> list[Job]:
    """The runs: one for each source, but of distilled sets, each seed's distillation and its prompts.

    Args:
        base: data set and encoder.
        sources: names from `SOURCES`.
        files: of texts, by those of the sources that are read from one.
        counts: examples per class in a prompt.
        seeds: of distillations; of everything else, how many draws.
        outer_steps: of distillations.
        language_model: who is prompted.
        transfer: who else, with the same prompts.
        texts: test texts.
        orders: of the examples in each draw.
        smoke: few steps on few texts.
    """
    most = max(counts)
    steps = [] if smoke else [f"--config.distill.outer_steps={outer_steps}", f"--config.distill.validate_every={max(outer_steps // 6, 1)}"]
    arguments, alone = f"recipe=ddllm,examples={most}{',smoke' * smoke}", [UNTAUGHT, *steps]
    amount = "smoke" if smoke else f"{texts}x{orders}-{'+'.join(map(str, counts))}"
    models = "+".join(called(name).replace("/", "-") for name in (language_model, *transfer))
    asked = [f"model={language_model}", *([f"transfer={transfer!r}"] if transfer else []), f"per_class=({','.join(map(str, counts))},)"]
    asked += SMOKE if smoke else [f"texts={texts}", f"orders={orders}"]

    def prompting(source: str, having: tuple[int, ...], keys: list[str], line: list[str], of: str = "") -> Job:
        kind = f"prompt-{source.replace('_', '-')}{of}-{models}-{amount}"
        line = ["--mode=prompt", *line, *alone, *(f"--config.prompt.{key}" for key in [*asked, *keys])]
        return replace(base.job(kind, most, having, line, arguments), change=source)

    jobs = []
    for source in sources:
        if source == DISTILLED:
            for seed in seeds:
                made = base.job(f"prompt-set-{'smoke' if smoke else outer_steps}", most, (seed,), ["--mode=distill", *alone], arguments)
                given = [f"--distilled={made.member.folder / 'distilled'}"]
                jobs += [made, prompting(source, (seed,), [f"examples=('{DISTILLED}',)", "seeds=1"], given, "" if smoke else f"-{outer_steps}")]
        elif source == "soft":
            learned = [f"soft_tokens={2 if smoke else SOFT_TOKENS}", f"soft_seeds={len(seeds)}"]
            jobs.append(prompting(source, tuple(seeds), ["examples=()", *learned], []))
        else:
            examples = "()" if source == "none" else f"('{files.get(source, source)}',)"
            jobs.append(prompting(source, tuple(seeds), [f"examples={examples}", f"seeds={len(seeds)}"], []))
    return jobs


def enter(rows: list[Entry], job: Job) -> None:
    """Put a finished run's figures into the rows, in the place of those that other settings gave; distilling has none here."""
    if not job.change:
        return
    results, prompt = read_results(job.member.folder / "results.json"), job.member.config.prompt
    # Which the rows themselves say, without the folders of one machine.
    apart = ("prompt.model", "prompt.transfer", "prompt.examples", "prompt.per_class")
    settings = settings_of(results["config"], DISTILLED if job.change == DISTILLED else "full", "prompt")
    settings = {key: value for key, value in settings.items() if key not in apart}
    seeds = str(job.seeds[0]) if job.change == DISTILLED else ALL
    asked = {short_name(name): called(name) for name in (prompt.model, *prompt.transfer)}
    for found in results["prompt"]:
        # Examples of a file are called by its name.
        name = job.change if job.change in (PUBLISHED, TEXT) and found["examples_per_class"] else found["variation"]
        if name not in SOURCES[job.change]:
            continue
        language_model = asked[found["model"]]
        if name == AS_TEXT and language_model != called(prompt.model):
            name += f"{LEARNED_FOR}{called(prompt.model)}"
        key = {"dataset": job.dataset, "model": job.model, "language_model": language_model, "texts": found["texts"]}
        key |= {"source": name, "examples_per_class": found["examples_per_class"]}
        row = find_entry(rows, key, settings, ("test",))
        row["test"][seeds] = {part: found[part] for figure in ("accuracy", "uncalibrated") for part in (f"{figure}_mean", f"{figure}_std")}
        row["test"][seeds] |= {part: found[part] for part in ("runs", "unanswered_mean", "texts_in_test", "seconds")}
        row |= {"how": found["how"], "command": _command(job)}
        note_devices(row, job.seeds, results["environment"])


def _command(job: Job) -> str:
    prompt, command = job.member.config.prompt, job.command
    for name in prompt.examples:
        command = command.replace(name, Path(name).name)
    for name in (prompt.model, *prompt.transfer):
        command = command.replace(name, called(name))
    return command


def write(rows: list[Entry]) -> None:
    """Write both files, in a fixed order."""
    order = {name: place for place, name in enumerate(ROWS)}
    rows.sort(key=lambda row: (*(row[part] for part in SETTING), order[_kind(row["source"])], row["source"], row["examples_per_class"] or 0))
    write_entries(JSON, "rows", rows, MARKDOWN, markdown(rows))


def markdown(rows: list[Entry]) -> str:
    """A table for each data set, encoder, language model and number of texts: a row for every source, a column for each number of examples."""
    lines = [
        "# Few-shot prompts, by where their examples come from",
        "",
        "Accuracy in %, calibrated (soft prompts are not), on the same test texts: mean and standard deviation over runs (their number), which are draws and",
        "orders of the examples, and seeds of distillations and of soft prompts. Written by `python -m benchmarks.prompt`; commands, settings and",
        "figures by seed, also those without calibration, are in PROMPTS.json.",
    ]
    for (dataset, model, language_model, texts), found in by_setting(rows, SETTING):
        here = {(row["source"], row["examples_per_class"] or 0): row for row in found}
        counts = sorted({count for _, count in here if count})
        lines += ["", f"## {dataset}, {texts} test texts, {called(language_model)}; encoder {called(model)}", ""]
        lines += [f"| examples per class | none | {' | '.join(map(str, counts))} |", f"|---|---:|{'---:|' * len(counts)}"]
        for source in dict.fromkeys(given for given, _ in here):
            told = f"{ROWS[_kind(source)]}{source.removeprefix(_kind(source))}"
            lines.append(f"| {told} | {' | '.join(_figure(here.get((source, count))) for count in (0, *counts))} |")
    return "\n".join(lines) + "\n"


def _kind(source: str) -> str:
    return source.partition(LEARNED_FOR)[0]


def _figure(row: Entry | None) -> str:
    if row is None:
        return ""
    mean, deviation, runs = pool(list(row["test"].values()))
    return f"{100 * mean:.1f} ± {100 * deviation:.1f} ({runs})" if runs > 1 else f"{100 * mean:.1f}"


def pool(parts: list[dict[str, Any]]) -> tuple[float, float, int]:
    """Mean, deviation (with n − 1) and number of all runs together, of some that each have these."""
    runs = sum(part["runs"] for part in parts)
    mean = sum(part["runs"] * part["accuracy_mean"] for part in parts) / runs
    squares = sum((part["runs"] - 1) * part["accuracy_std"] ** 2 + part["runs"] * (part["accuracy_mean"] - mean) ** 2 for part in parts)
    return mean, math.sqrt(squares / (runs - 1)) if runs > 1 else 0.0, runs


if __name__ == "__main__":
    sys.exit(main())
