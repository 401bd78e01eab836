"""One method through all lessons: after each, the figures on everything learned so far.

| method | goes on from | learns from | memory |
|---|---|---|---|
| `finetune` | its weights after the last lesson | the lesson's texts | none: the lower bound |
| `ewc` | the same | the same, held back (ewc.py) | two copies of the parameters |
| `random`, `herding` | the same | the lesson's texts and stored ones | as many bytes of texts as distilled sets take |
| `random_alone`, `herding_alone` | the pretrained weights | the same stored texts alone (alone.py) | the same |
| `distilled` | its weights so far | the lesson's texts and distilled examples, with the classes that their own model gives | a distilled set for each task |
| `recipe` | the pretrained weights | the distilled sets alone, by their recipe | the same |
| `update` | the pretrained weights | one distilled set, which each lesson's texts have updated | the same |
| `joint` | the pretrained weights | the texts of all lessons so far | all texts: the upper bound |

Every batch that a memory shares has config.continual.replay of it, and new texts for the rest. An epoch is one of the new texts. Nothing is chosen by
validation texts, since earlier ones would have to be kept for that: the last parameters count. Stored texts alone are the exception, whose rate and passes
are chosen on those of all lessons so far, to their advantage. Word tables are not trained.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ddllm.artefact.base import Distilled
from ddllm.continual.alone import train_alone
from ddllm.continual.ewc import anchor, fisher_diagonal
from ddllm.continual.exemplars import Exemplars
from ddllm.continual.keep import as_recipe, distil_lesson, kept_bytes, of_lesson, seconds_of, train_recipe, update_memory
from ddllm.continual.lessons import Lesson
from ddllm.data.batches import BatchStream, length_buckets
from ddllm.data.tokens import join_splits
from ddllm.evaluate.finetune import Penalty, finetune
from ddllm.merge.align import Classes
from ddllm.merge.relearn import with_stand_ins
from ddllm.merge.stand_ins import Replay, Texts, join_texts, real_texts, share_places
from ddllm.models.encoder import Tree
from ddllm.models.figures import compute_figure
from ddllm.models.tasks import Classification
from ddllm.prepare import Prepared
from ddllm.runtime.checkpoints import Checkpoints
from ddllm.runtime.metrics import Metrics

WITH_RECIPE = ("recipe", "update")
WITH_SETS = ("distilled", *WITH_RECIPE)
ALONE = {"random_alone": "random", "herding_alone": "herding"}  # by which method they choose texts
WITH_TEXTS = ("random", "herding", *ALONE)
T = TypeVar("T")
ALIKE = "first"  # what the first lesson is for all methods that fine-tune: the same


@dataclass
class Course:
    """All lessons for one seed.

    Attributes:
        prepared: model and configuration, with the seed, and a learner of all classes.
        names: of all classes, in the order of the lessons.
        lessons: in their order.
        folder: where everything is kept.
        open_metrics: opens where figures are written.
        room: bytes that exemplars may take after each lesson.
    """

    prepared: Prepared
    names: tuple[str, ...]
    lessons: list[Lesson]
    folder: Path
    open_metrics: Callable[[], Metrics]
    room: list[int]

    @property
    def seed(self) -> int:
        """Of everything random in it."""
        return self.prepared.config.seed

    def run(self, method: str, finished: Callable[[int, dict[str, Any]], None]) -> None:
        """Go through all lessons by one method and hand over, after each, its number and its figures.

        Figures are "accuracies" (on each lesson so far), "accuracy" (on all their texts), "bytes" of memory and "seconds": what
        fine-tuning and distilling took in all starts together, also where another method has done it before, and the time of everything else.
        """
        memory = Memory(self, method)
        params: Tree | None = None
        for number, lesson in enumerate(self.lessons):
            trained = self.prepared
            if method in WITH_RECIPE:
                seconds = memory.learn(lesson, number, None)
                whole = memory.recipe(number)
                (trained, params), took = timed(partial(train_recipe, self.prepared, whole))
                # What a merged set has learned is counted beside what its parts have.
                took += seconds_of(whole) - sum(map(seconds_of, memory.sets)) if whole is not memory.sets[0] else 0.0
            elif method in ALONE:
                seconds = memory.learn(lesson, number, None)
                params, took = timed(partial(self.train_on_memory, memory, number))
            else:
                params, took = self.fine_tune(method, number, memory, params)
                seconds = memory.learn(lesson, number, params)
            seconds += took
            finished(number, self.score(trained, params, number) | {"bytes": memory.bytes, "seconds": seconds})

    def fine_tune(self, method: str, number: int, memory: "Memory", params: Tree | None) -> tuple[Tree, float]:
        """The parameters after a lesson, and the seconds that they took."""
        prepared, config = self.prepared, self.prepared.config
        lesson, folder = self.lessons[number], method if number else ALIKE
        new = real_texts(lesson.split("train"), prepared.learner)
        if method == "joint":
            new = join_texts([real_texts(each.split("train"), prepared.learner) for each in self.lessons[: number + 1]])
            params = None
        buckets = length_buckets(new.split.lengths, config.data.length)
        prepared = replace(prepared, buckets=buckets, tokens=replace(lesson.tokens, label_names=self.names, validation=lesson.split("validation")))
        stream: Any = BatchStream(new.labelled, config.finetune.batch_size, self.seed, buckets)
        (prepared, old), asked = timed(partial(memory.texts, prepared)) if number else ((prepared, None), 0.0)
        if old is not None:
            stream = Replay([new, old], share_places(config.finetune.batch_size, config.continual.replay), self.seed, buckets)
        checkpoints, metrics = Checkpoints(self.folder / folder / f"lesson-{number + 1}", keep=1), self.open_metrics()
        name = f"continual-{folder}-{number + 1}-{self.seed}"
        try:
            how: dict[str, Any] = {"begin": params, "stream": stream, "penalty": memory.penalty}
            state, seconds = finetune(prepared, self.seed, checkpoints, metrics, name, **how)
        finally:
            checkpoints.close()
            metrics.close()
        return jax.tree.map(jnp.asarray, state.best["params"]), seconds + asked

    def train_on_memory(self, memory: "Memory", number: int) -> Tree:
        """The parameters that stored texts alone lead to, after a lesson; the pretrained ones where there is room for none."""
        prepared, texts = self.prepared, memory.exemplars.texts(self.prepared.learner)
        if texts is None:
            return {"body": prepared.start.body, "head": prepared.learner.init_head(jax.random.key(self.seed), prepared.start.pooler)}
        seen = join_splits([lesson.split("validation") for lesson in self.lessons[: number + 1]])
        return train_alone(prepared, texts.labelled, prepared.scorer(seen, prepared.config.evaluate.tuning_texts))

    def score(self, prepared: Prepared, params: Tree, number: int) -> dict[str, Any]:
        """Accuracies on the test texts of all lessons so far, among the classes seen so far."""
        right, counts = [], []
        for lesson in self.lessons[: number + 1]:
            scorer = prepared.scorer(lesson.split("test"))
            logits = scorer.logits(params)[:, : self.lessons[number].seen]
            right.append(compute_figure("accuracy", scorer.labels, logits.argmax(axis=-1)))
            counts.append(scorer.texts)
        return {"accuracies": right, "accuracy": float(np.average(right, weights=counts)), "texts": int(sum(counts))}

    def take_set(self, number: int) -> Distilled:
        """The distilled set of a lesson, the same for all methods."""
        folder, mark = self.folder / "sets" / str(number + 1), f"{number + 1}-{self.seed}"
        return distil_lesson(self.prepared, self.lessons[number], folder, self.open_metrics, mark)


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What some work gives, and its seconds."""
    began = time.monotonic()
    done = jax.block_until_ready(work())
    return done, time.monotonic() - began


class Memory:
    """What a method keeps of earlier lessons."""

    def __init__(self, course: Course, method: str) -> None:
        self.course, self.method = course, method
        self.sets: list[Distilled] = []
        self.exemplars = Exemplars(ALONE.get(method, method), course.prepared.pretrained.config.vocabulary, course.seed)
        self.fisher: Tree | None = None
        self.penalty: Penalty | None = None
        self.learned = 0

    @property
    def bytes(self) -> int:
        """Of everything kept."""
        course = self.course
        if self.method in WITH_SETS:
            how = course.prepared.config.continual.storage, course.prepared.pretrained.config.vocabulary
            return sum(kept_bytes(distilled.data, *how) for distilled in self.sets)
        if self.method == "ewc" and self.fisher is not None:
            return 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(self.fisher))
        if self.method == "joint":
            joint = Exemplars("random", course.prepared.pretrained.config.vocabulary, 0)
            joint.kept = {number: lesson.tokens.train for number, lesson in enumerate(course.lessons[: self.learned])}
            return joint.bytes
        return self.exemplars.bytes

    def learn(self, lesson: Lesson, number: int, params: Tree | None) -> float:
        """Keep something of a lesson that was just learned, and tell the seconds that it took."""
        began = time.monotonic()
        course, config = self.course, self.course.prepared.config.continual
        self.learned = number + 1
        if self.method == "update" and number:
            mark = f"{number + 1}-{course.seed}"
            folder = course.folder / "update" / f"lesson-{number + 1}"
            self.sets = [update_memory(course.prepared, self.sets[0], lesson, folder, course.open_metrics, mark)]
            return seconds_of(self.sets[0])
        if self.method in WITH_SETS:
            self.sets.append(course.take_set(number))
            return seconds_of(self.sets[-1])
        if self.method in WITH_TEXTS:
            self.exemplars.learn(lesson, course.room[number], lambda: of_lesson(course.prepared, lesson).features)
        elif self.method == "ewc" and params is not None and self.learned < len(course.lessons):
            texts = lesson.split("train")
            chosen = np.random.default_rng([course.seed, 37, number]).permutation(len(texts))[: config.fisher_texts]
            fisher = fisher_diagonal(course.prepared, course.prepared.learner, params, texts.take(chosen), course.seed)
            self.fisher = fisher = fisher if self.fisher is None else jax.tree.map(jnp.add, self.fisher, fisher)
            self.penalty = jax.block_until_ready(anchor(fisher, params, config.ewc))
        return time.monotonic() - began

    def texts(self, prepared: Prepared) -> tuple[Prepared, Texts | None]:
        """What is replayed in a further lesson, and what is prepared with the words that it is made of."""
        if self.method in ("random", "herding"):
            return prepared, self.exemplars.texts(prepared.learner)
        if self.method != "distilled":
            return prepared, None
        names = self.course.names
        columns = [np.array([names.index(name) for name in distilled.label_names]) for distilled in self.sets]
        classes, variants = Classes(names, columns, Classification()), prepared.config.merge.variants
        prepared, parts = with_stand_ins(prepared, self.sets, classes, variants, decided=True)
        return prepared, join_texts(parts)

    def recipe(self, number: int) -> Any:
        """What a model is trained on from scratch, after a lesson."""
        if len(self.sets) == 1:
            return self.sets[0]
        course, mark = self.course, f"{number + 1}-{self.course.seed}"
        names = course.names[: course.lessons[number].seen]
        folder = course.folder / "recipe" / f"lesson-{number + 1}"
        return as_recipe(course.prepared, self.sets, names, folder, course.open_metrics, mark)
