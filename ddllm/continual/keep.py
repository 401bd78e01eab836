"""A memory of distilled data sets, one for each task: made from the task's texts alone, stored in few bits, and given back as texts or as a recipe."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddllm.artefact.base import Distilled
from ddllm.artefact.folder import load_distilled, save_distilled
from ddllm.continual.checks import TOKENS
from ddllm.continual.lessons import Lesson
from ddllm.data.batches import length_buckets
from ddllm.distill.cross import real_batches
from ddllm.distill.dataset import DistilledData, Recipe, learned_parts
from ddllm.distill.teacher import make_teacher, taught_in
from ddllm.errors import UserError
from ddllm.evaluate.small import head_key, train_small
from ddllm.evaluate.storage import restored, stored_bytes
from ddllm.merge.learn import learn_again
from ddllm.merge.relearn import Work, as_distilled, relearn_on_sets, update
from ddllm.merge.sets import UNION, Merged, merge_sets
from ddllm.models.encoder import Tree
from ddllm.prepare import Prepared
from ddllm.runtime.metrics import Metrics, read_metrics
from ddllm.runtime.processes import from_first, is_first


def of_lesson(prepared: Prepared, lesson: Lesson) -> Prepared:
    """What is prepared, for a lesson's classes alone."""
    head = replace(prepared.learner.head, classes=len(lesson.columns))
    buckets = length_buckets(lesson.tokens.train.lengths, prepared.config.data.length)
    return replace(prepared, tokens=lesson.tokens, learner=replace(prepared.learner, head=head), buckets=buckets)


def kept_parts(data: DistilledData, recipe: Recipe, storage: str) -> tuple[str, ...]:
    """What is learned of a set that is kept: where texts are stored as token numbers, everything but the texts."""
    return tuple(name for name in learned_parts(data, recipe) if storage != TOKENS or name != "embeddings")


def kept_bytes(data: DistilledData, storage: str, vocabulary: int) -> int:
    """Bytes of a set in the memory (see evaluate/storage.py); a token number takes 2 or, where the vocabulary needs them, 4."""
    if storage != TOKENS:
        return stored_bytes(data, storage)
    positions = int(np.sum(np.asarray(data.mask) > 0))
    return (2 if vocabulary <= 2**16 else 4) * positions + 4 * (data.floats - positions * data.embeddings.shape[-1])


def compress(data: DistilledData, storage: str) -> DistilledData:
    """The data set as it comes back from storage."""
    return data if storage == TOKENS else restored(data, storage)


def check_room(prepared: Prepared, lessons: list[Lesson]) -> list[int]:
    """Bytes that the sets take after each lesson.

    Raises:
        UserError: they take more than the memory has, after all lessons.
    """
    config = prepared.config
    storage = config.continual.storage
    if storage == TOKENS and config.distill.initial in ("noise", "normal"):
        raise UserError(
            f"config.continual.storage is {TOKENS!r}, but config.distill.initial={config.distill.initial} is no text; set it to real or herding."
        )
    own = of_lesson(prepared, lessons[0])
    first = as_distilled(own).data
    if first.word_scores is not None:  # by the end every word of the texts has some
        scores = np.array(first.word_scores)
        scores[:, np.unique(own.tokens.train.ids)] = 1.0
        first = first.replace(word_scores=scores)
    each = kept_bytes(first, storage, prepared.pretrained.config.vocabulary) / len(lessons[0].columns)
    taken = np.cumsum([round(each * len(lesson.columns)) for lesson in lessons]).tolist()
    if taken[-1] > config.continual.memory:
        lower = ["config.distill.length or config.distill.examples_per_class lower"]
        lower += [f"config.distill.{key} to False" for key in ("direction_labels", "gains", "word_scores") if config.distill[key]]
        lower += ["config.continual.storage to int8 or tokens"] * (storage not in ("int8", TOKENS))
        raise UserError(
            f"the distilled sets of {len(lessons)} tasks would take {taken[-1]:,} bytes, but config.continual.memory is {config.continual.memory:,}: "
            f"set {' or '.join(lower)}."
        )
    return taken


def distil_lesson(prepared: Prepared, lesson: Lesson, folder: Path, open_metrics: Callable[[], Metrics], mark: str) -> Distilled:
    """The set of one lesson: loaded where it is there, or else distilled as config.distill says.

    Args:
        prepared: the run's.
        lesson: whose texts are seen, and no others.
        folder: where the set goes, beside its checkpoints.
        open_metrics: opens where figures are written.
        mark: makes the figures' name.
    """
    place = folder / "distilled"
    if not from_first(place.is_dir):
        prepared, config = of_lesson(prepared, lesson), prepared.config.distill
        fresh = as_distilled(prepared)
        teaching = f"continual-teacher-{mark}"
        teacher = make_teacher(prepared, folder / "teacher", open_metrics, teaching) if config.teacher else None
        stream = real_batches(prepared)
        scorer = prepared.scorer(prepared.tokens.validation, config.validation_texts)
        parts = kept_parts(fresh.data, fresh.recipe, prepared.config.continual.storage)
        how = (stream, scorer, folder / "checkpoints", open_metrics, config.outer_steps, teacher, f"continual-distill-{mark}")
        data, figures = learn_again(prepared, fresh.data, fresh.recipe, parts, *how)
        figures["distillation_seconds"] += _seconds_taught(open_metrics, teaching)
        _save(prepared, fresh, data, place, figures)
    return from_first(lambda: load_distilled(place))


def seconds_of(distilled: Distilled | Merged) -> float:
    """Seconds that learning a set took, its teacher's included, in all starts together."""
    return float(distilled.card.get("distillation_seconds", 0.0))


def update_memory(
    prepared: Prepared, old: Distilled, lesson: Lesson, folder: Path, open_metrics: Callable[[], Metrics], mark: str
) -> Distilled:
    """One set for all lessons so far: the earlier ones' set and the new texts, and nothing else (see merge/relearn.py)."""
    place = folder / "distilled"
    if not from_first(place.is_dir):
        config = prepared.config
        work = Work(folder / "checkpoints", open_metrics, config.distill.outer_steps, config.merge.variants, f"continual-update-{mark}")
        kept = kept_parts(old.data, old.recipe, config.continual.storage)
        merged = update(of_lesson(prepared, lesson), old, "the set of the earlier tasks", config.continual.way, config.continual.replay, work, kept)
        merged = replace(merged, data=compress(merged.data, config.continual.storage))
        if is_first():
            merged.save(place, prepared.pretrained)
    return from_first(lambda: load_distilled(place))


def as_recipe(
    prepared: Prepared, sets: list[Distilled], names: tuple[str, ...], folder: Path, open_metrics: Callable[[], Metrics], mark: str
) -> Merged:
    """The sets of all lessons so far as one recipe over all their classes."""
    config = prepared.config.continual
    folders = [f"the set of task {number}" for number in range(1, len(sets) + 1)]
    merged = merge_sets(sets, folders, config.way, prepared.pretrained, UNION, names)
    if not config.relearn_steps:
        return merged
    work = Work(folder, open_metrics, config.relearn_steps, prepared.config.merge.variants, f"continual-relearn-{mark}")
    return relearn_on_sets(prepared, merged, sets, tuple(prepared.config.merge.learn), work)


def train_recipe(prepared: Prepared, distilled: Distilled | Merged) -> tuple[Prepared, Tree]:
    """Parameters trained from the pretrained ones on a set, and what is prepared with its learner."""
    learner = distilled.learner if isinstance(distilled, Merged) else distilled.learner(prepared.pretrained)
    data = jax.tree.map(jnp.asarray, distilled.data)
    return replace(prepared, learner=learner), train_small(learner, distilled.recipe, prepared.start, data, head_key(prepared, 0))


def _seconds_taught(open_metrics: Callable[[], Metrics], name: str) -> float:
    """Seconds of a teacher's fine-tunings in all starts together; 0 where there were none."""
    metrics, took = open_metrics(), dict[str, float]()
    metrics.close()
    for line in read_metrics(metrics.path):
        if taught_in(line["stage"], name):
            took[line["stage"]] = max(took.get(line["stage"], 0.0), line["elapsed"])
    return sum(took.values())


def _save(prepared: Prepared, fresh: Distilled, data: DistilledData, place: Path, figures: dict[str, float]) -> None:
    if not is_first():
        return
    card: dict[str, Any] = {key: value for key, value in fresh.card.items() if key != "label_names"} | figures
    save_distilled(place, compress(data, prepared.config.continual.storage), fresh.recipe, fresh.label_names, **card)
