"""The stage's work: every source of examples, at every number of them, for every model: the list "prompt" of the results."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ddllm.artefact.base import Distilled
from ddllm.data.corpus import load_corpus
from ddllm.data.splits import Split
from ddllm.data.tokens import load_tokenizer
from ddllm.errors import UserError
from ddllm.prepare import Prepared
from ddllm.prompt.backend import Backend, open_backend
from ddllm.prompt.examples import Examples, Source, count_in_test, open_sources, orders_of, read_soft, tell_missing
from ddllm.prompt.scoring import Clock, Questions, accuracy, decided, make_questions, score_prefix
from ddllm.prompt.templates import make_template
from ddllm.report.results import summarise
from ddllm.runtime.metrics import Metrics
from ddllm.runtime.processes import count as count_processes
from ddllm.runtime.progress import Progress, say
from ddllm.runtime.storage import write_json

Row = dict[str, Any]
NONE, SOFT = "no examples", "soft prompt"
AS_TEXT = f"{SOFT}, as text"  # its nearest tokens
MOST = 0.5  # share of answers without a label from which on this is told


@dataclass(frozen=True)
class Prefixes:
    """Beginnings of prompts that make one row.

    Attributes:
        name: of their source.
        per_class: examples of each class; 0 for none.
        runs: the beginnings, one for each run.
        note: for people, or nothing.
        texts_in_test: how many texts of the examples are texts of the test split.
    """

    name: str
    per_class: int | None
    runs: list[str]
    note: str = ""
    texts_in_test: int = 0


def evaluate_prompts(prepared: Prepared, folder: Path, texts: Path, own: Callable[[], Distilled | Path], metrics: Callable[[], Metrics]) -> list[Row]:
    """Accuracy of language models on test texts behind examples of every source.

    Args:
        prepared: data, encoder and configuration.
        folder: where answers are kept, with prompts.json for people: what every prompt begins with.
        texts: folder of what text routes wrote.
        own: the distilled data set, or the file of texts that stands in its place.
        metrics: opens where figures of learning soft prompts go.

    Returns:
        Rows {"variation" (the source), "examples_per_class", "model", "accuracy_mean", "accuracy_std", "uncalibrated_mean", "uncalibrated_std",
        "unanswered_mean", "unanswered_std" (the share of test texts without an answer), "runs", "texts", "texts_seed", "seconds", "how",
        "texts_in_test" (of the examples), "note"}; "accuracy" is calibrated where the backend allows it.

    Raises:
        UserError: the data have no classes, a source or a model is not there, or limits on requests or cost are reached.
    """
    config = prepared.config.prompt
    folder.mkdir(parents=True, exist_ok=True)
    check_prompted(prepared)
    corpus = load_corpus(prepared.config.data)
    pairs = bool(prepared.config.data.pair_column)
    template = make_template(
        prepared.config.data.source,
        prepared.tokens.label_names,
        config.template,
        config.label_words,
        pairs,
        config.separator,
        config.instruction,
        config.text_words,
    )
    questions = make_questions(template, corpus.test, config.texts, config.seed, config.blanks)
    sources = open_sources(prepared, corpus.train, config.examples, texts, own)
    count_known = partial(count_in_test, prepared, load_tokenizer(prepared.pretrained.folder))
    prefixes = [Prefixes(NONE, 0, [template.prefix([])]), *make_prefixes(config, questions, sources, count_known)]
    soft_rows: list[Row] = []
    if config.soft_tokens:
        soft_row, as_text = evaluate_soft(config, questions, folder / "soft", (corpus.train, corpus.validation), metrics)
        soft_rows.append(soft_row)
        prefixes.append(as_text)
    write_json(folder / "prompts.json", [asdict(prefix) for prefix in prefixes])
    rows: list[Row] = []
    for name in (config.model, *config.transfer):
        with closing(open_backend(config, name, folder / "answers.jsonl", template.words)) as backend:
            rows += score_model(config, backend, questions, prefixes)
    return [*rows, *soft_rows]


def check_prompted(prepared: Prepared) -> None:
    """Raise `UserError` where there are no classes to be asked for, or several processes, of which only one could ask."""
    task = prepared.learner.task
    if not task.one_class:
        raise UserError(f"prompts ask for one class of each text, but the task of {prepared.tokens.name} is {task.name}; leave the stage prompt out.")
    if count_processes() > 1:
        raise UserError("the stage prompt is for one process; run --mode=prompt in the same --workdir by itself afterwards.")


def make_prefixes(config: ConfigDict, questions: Questions, sources: list[Source], count_known: Callable[[Examples], int]) -> list[Prefixes]:
    """What prompts begin with: of every source as many draws and orders as config.prompt says, with a count of the examples that are test texts."""
    found = []
    for per_class in config.per_class:
        for source in sources:
            runs: list[str] = []
            shown: Examples = []
            drawn = source.drawn(per_class)
            seeds = range(config.seed, config.seed + (config.seeds if drawn else 1))
            orders = config.orders if drawn else config.orders * config.seeds
            for seed in seeds:
                examples = source.draw(per_class, seed)
                if examples is not None:
                    shown += examples
                    runs += [questions.template.prefix(order) for order in orders_of(examples, orders, seed)]
            if runs:
                known = count_known(shown)
                notes = ["the same examples in every run, in other orders"] * (not drawn)
                notes += [f"{known} of its texts occur in the test split"] * (known > 0)
                found.append(Prefixes(source.name, per_class, runs, "; ".join(notes), known))
            else:
                tell_missing(source, per_class)
    return found


def evaluate_soft(
    config: ConfigDict, questions: Questions, folder: Path, splits: tuple[Split, Split], metrics: Callable[[], Metrics]
) -> tuple[Row, Prefixes]:
    """The row of soft prompts learned for config.prompt.model, and their nearest tokens as text, for this model and others.

    Args:
        config: config.prompt.
        questions: what they are scored on.
        folder: where they are kept.
        splits: training and validation texts.
        metrics: opens where figures of learning go.
    """
    from ddllm.prompt.soft import learn_or_load, load_soft_model, score_texts

    model, base = load_soft_model(config.model, questions.template)
    start = questions.template.prefix([])
    clock, scores, texts = Clock(), [], []
    for seed in range(config.seed, config.seed + config.soft_seeds):
        prompt_PD = learn_or_load(config, model, folder, base, splits, seed, metrics)
        found = score_texts(model, jnp.asarray(prompt_PD), [start + text for text in questions.texts], config.batch_size, "prompt: soft prompt")
        reached = accuracy(found, questions.labels)
        scores.append({"accuracy": reached, "uncalibrated": reached, "unanswered": float(np.mean(~decided(found)))})
        text = read_soft(prompt_PD, np.asarray(model.params["words"]), model.tokenizer)
        texts.append(start + text + questions.template.separator)
    row = {"variation": SOFT, "examples_per_class": None, "model": model.name, **summarise(scores)}
    note = f"{config.soft_tokens} positions learned in {config.soft_steps} steps of {config.soft_batch_size} training texts, not calibrated"
    row |= {"texts": len(questions.texts), "texts_seed": config.seed, "how": "log-likelihood of the label's tokens", "seconds": clock.lap()}
    row |= {"texts_in_test": 0, "note": note}
    return row, Prefixes(AS_TEXT, None, texts, f"the nearest tokens of the soft prompt learned for {model.name}")


def score_model(config: ConfigDict, backend: Backend, questions: Questions, prefixes: list[Prefixes]) -> list[Row]:
    """The rows of one model."""
    rows: list[Row] = []
    each = len(questions.texts) + (len(questions.blanks) if backend.calibrated else 0)
    with Progress(each * sum(len(prefix.runs) for prefix in prefixes), f"prompt: {backend.name}") as progress:
        for prefix in prefixes:
            clock, scores = Clock(), []
            for text in prefix.runs:
                scores.append(score_prefix(backend, questions, text, lambda count: progress.update(progress.done + count)))
            row = {"variation": prefix.name, "examples_per_class": prefix.per_class, "model": backend.name, **summarise(scores)}
            row |= {"texts": len(questions.texts), "texts_seed": config.seed, "how": backend.how, "seconds": clock.lap()}
            row |= {"texts_in_test": prefix.texts_in_test, "note": "; ".join(filter(None, (prefix.note, tell_unanswered(row))))}
            progress.update(progress.done, accuracy=row["accuracy_mean"])
            rows.append(row)
    rows[0]["note"] = "; ".join(filter(None, (describe(config, backend, questions), rows[0]["note"])))
    warn_of_silence(backend, rows)
    return rows


def tell_unanswered(row: Row) -> str:
    """How many answers name no label, or nothing where all do."""
    share = row["unanswered_mean"]
    return f"{100 * share:.1f} % of its answers name no label and count as wrong" if share else ""


def warn_of_silence(backend: Backend, rows: list[Row]) -> None:
    """Say once where most of a model's answers name no label, so that its accuracies say little about the examples."""
    share = sum(row["unanswered_mean"] for row in rows) / len(rows)
    if share > MOST:
        asked = "set config.prompt.ask to text or chat_text" if backend.calibrated else "ask for longer ones with config.prompt.answer_tokens"
        say(
            f"  {backend.name}: {100 * share:.0f} % of the answers name no label and count as wrong; {asked}, or say in config.prompt.instruction what to "
            "answer with"
        )


def describe(config: ConfigDict, backend: Backend, questions: Questions) -> str:
    """What all rows of a model have in common."""
    calibrated = f"calibrated by {len(questions.blanks)} content-free texts" if backend.calibrated and questions.blanks else "not calibrated"
    words = ", ".join(questions.template.words)
    return (
        f"{backend.name} on {len(questions.texts)} test texts drawn with seed {config.seed}; {backend.how}, {calibrated}; label words {words}; "
        "± over draws and orders of the examples"
    )
