"""Merged sets learned again: on the run's texts, on the sets' own examples where there are no texts, or on new texts beside the old set's examples.

    relearn_on_texts    rates, labels, … of a merged set, on real texts of all its classes
    relearn_on_tasks    the same for heads, on the texts of every head's own corpus
    relearn_on_sets     the same without data: the merged set's model shall agree with each set's own about that set's examples
    update              a set for new texts too (further texts, or further classes), its own examples standing in for the old ones
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ddllm.artefact.base import Distilled, describe_base
from ddllm.data.batches import length_buckets
from ddllm.data.tokens import TokenCorpus, TokenSplit
from ddllm.distill.cross import real_batches
from ddllm.distill.dataset import learned_parts
from ddllm.distill.plan import first_data, recipe_of
from ddllm.distill.teacher import Teacher
from ddllm.errors import UserError
from ddllm.evaluate.small import head_key, train_small
from ddllm.merge.align import Classes, same_classes
from ddllm.merge.fit import check_classes
from ddllm.merge.learn import MeanScorer, learn_again
from ddllm.merge.sets import UNION, Merged, describe_set, merge_sets
from ddllm.merge.stand_ins import Replay, Texts, ask, join_texts, make_stand_ins, real_texts, share_places, widen
from ddllm.models.learner import Start
from ddllm.models.multi_head import MultiHead, use_head
from ddllm.models.pretrained import Pretrained
from ddllm.models.scoring import Scorer
from ddllm.prepare import Prepared, place_start
from ddllm.runtime.mesh import make_mesh, place_parameters
from ddllm.runtime.metrics import Metrics

NEW = "the new data's first set"


@dataclass(frozen=True)
class Work:
    """Where learning again writes, and how long it goes on.

    Attributes:
        folder: of checkpoints.
        open_metrics: opens where figures are written.
        outer_steps: how many.
        variants: stand-ins beside each distilled example (see stand_ins.py).
        stage: names the figures.
    """

    folder: Path
    open_metrics: Callable[[], Metrics]
    outer_steps: int
    variants: int = 8
    stage: str = "merge"


def relearn_on_texts(prepared: Prepared, merged: Merged, parts: tuple[str, ...], work: Work, teacher: Teacher | None = None) -> Merged:
    """Learn parts of a merged set on the training texts, chosen on the validation texts."""
    prepared = replace(prepared, learner=merged.learner)
    stream = real_batches(prepared)
    scorer = prepared.scorer(prepared.tokens.validation, prepared.config.distill.validation_texts)
    return _learned(prepared, of_texts(merged, prepared), parts, stream, scorer, work, teacher)


def relearn_on_tasks(prepared: Prepared, merged: Merged, corpora: list[TokenCorpus], parts: tuple[str, ...], work: Work) -> Merged:
    """Learn parts of a merged set with a head for each task on the training texts of all tasks, chosen by the mean figure on their validation texts.

    Args:
        prepared: the encoder and configuration; every real batch has as many texts of each task.
        merged: with as many heads as there are corpora, and their classes.
        corpora: one for each head, in the heads' order.
        parts: what is learned.
        work: where and how long.

    Raises:
        UserError: corpora and heads do not fit together.
    """
    learner, names, config = merged.learner, merged.classes.names, prepared.config.distill
    task = learner.task
    assert isinstance(task, MultiHead)
    if len(corpora) != len(task.heads):
        raise UserError(f"config.merge.tasks names {len(corpora)} corpora for {len(task.heads)} sets; name one for each, in the order of --sets.")
    if config.batch_size < len(corpora):
        raise UserError(f"config.distill.batch_size is {config.batch_size}, but {len(corpora)} tasks share each batch; make it larger.")
    lengths = np.concatenate([corpus.train.lengths for corpus in corpora])
    prepared = replace(prepared, buckets=length_buckets(lengths, int(lengths.max())))
    kinds, scorers = [], []
    for number, corpus in enumerate(corpora):
        own = names[task.columns(number)]
        if sorted(own) != sorted(corpus.label_names):
            raise UserError(
                f"config.merge.tasks has {corpus.name} with the classes {', '.join(corpus.label_names)} for the head {task.heads[number]}, whose set has "
                f"{', '.join(own)}; name the corpora in the order of --sets."
            )
        order = np.array([own.index(name) for name in corpus.label_names], np.int32)
        train, validation = (replace(split, labels=order[split.labels]) for split in (corpus.train, corpus.validation))
        active = use_head(learner, number)
        kinds.append(real_texts(train, active, outputs=len(names)))
        scorers.append(replace(prepared, learner=active).scorer(validation, config.validation_texts))
    sizes = [len(places) for places in np.array_split(np.arange(config.batch_size), len(corpora))]
    stream = Replay(kinds, sizes, prepared.config.seed, prepared.buckets)
    return _learned(prepared, merged, parts, stream, MeanScorer(tuple(scorers)), work)


def relearn_on_sets(prepared: Prepared, merged: Merged, sets: list[Distilled], parts: tuple[str, ...], work: Work) -> Merged:
    """Learn parts of a merged set on the sets' own examples, each with the opinion of the model that its own set trains; no data are needed."""
    prepared, texts = with_stand_ins(replace(prepared, learner=merged.learner), sets, merged.classes, work.variants)
    stand_ins = join_texts(texts)
    buckets = length_buckets(stand_ins.split.lengths, int(stand_ins.split.lengths.max()))
    prepared = replace(prepared, buckets=buckets)
    stream = Replay([stand_ins], [min(prepared.config.distill.batch_size, len(stand_ins))], prepared.config.seed, buckets)
    return _learned(prepared, merged, parts, stream, score_stand_ins(prepared, texts), work)


def update(prepared: Prepared, old: Distilled, folder: str, way: str, share: float, work: Work, parts: tuple[str, ...] = ()) -> Merged:
    """A distilled data set changed by new texts, without those that it was distilled from.

    Args:
        prepared: the new texts; config.distill describes the examples that are added where they have classes that the set has not.
        old: the set.
        folder: what it is called in messages.
        way: how added examples are put to the old ones.
        share: of the old set's stand-ins in each real batch, in (0, 1).
        work: where and how long is learned.
        parts: what is learned; left out, everything that the recipe learns.

    Raises:
        UserError: the set does not fit the new texts' model or classes, or one is of pairs and the other is not.
    """
    check_classes([old], [folder])
    pairs = bool(prepared.config.data.pair_column)
    if old.pairs != pairs:
        here, there = ("pairs of texts" if of_pairs else "single texts" for of_pairs in (old.pairs, pairs))
        raise UserError(f"{folder} is for {here}, but the new texts are read as {there}; see config.data.pair_column.")
    tokens = prepared.tokens
    if set(tokens.label_names) <= set(old.label_names):
        old.check_base(prepared.pretrained)
        classes, learner = same_classes([old]), old.learner(prepared.pretrained)
        card = describe_base(prepared.pretrained, learner, prepared.config.data.length, pairs)
        merged = of_texts(Merged(old.data, old.recipe, classes, learner, card | {"updated": describe_set(old, folder)}), prepared)
    else:
        fresh = as_distilled(prepared)
        merged = merge_sets([old, fresh], [folder, NEW], way, prepared.pretrained, UNION)
    columns = np.array([merged.classes.names.index(name) for name in tokens.label_names])
    own = Classes(merged.classes.names, [np.array([merged.classes.names.index(name) for name in old.label_names])], merged.classes.task)
    prepared = replace(prepared, learner=merged.learner)
    prepared, [stand_ins] = with_stand_ins(prepared, [old], own, work.variants, decided=True)
    outputs = len(merged.classes.names)
    new = real_texts(tokens.train, merged.learner, columns, outputs)
    sizes = share_places(prepared.config.distill.batch_size, share)
    stream = Replay([new, stand_ins], sizes, prepared.config.seed, prepared.buckets)
    validation = real_texts(tokens.validation, merged.learner, columns, outputs).labelled
    scorer = MeanScorer((prepared.scorer(validation, prepared.config.distill.validation_texts), score_stand_ins(prepared, [stand_ins])))
    known = tuple(learned_parts(merged.data, merged.recipe))
    parts = tuple(part for part in parts if part in known) or known  # a learned order may have become a fixed one
    return _learned(prepared, merged, parts, stream, scorer, work)


def without_texts(config: ConfigDict, pretrained: Pretrained, merged: Merged) -> Prepared:
    """What is prepared where there are no data: the encoder, the merged set's learner, and a corpus of no texts."""
    mesh = make_mesh(config)
    nothing = TokenSplit(np.zeros((0, 1), np.int32), np.zeros(0, np.int32), np.zeros(0, np.int32))
    tokens = TokenCorpus("no texts", merged.classes.names, nothing, nothing, nothing, {}, "", merged.learner.task.name)
    return Prepared(config, tokens, pretrained, place_start(pretrained, mesh), merged.learner, (), mesh)


def with_stand_ins(
    prepared: Prepared, sets: list[Distilled], classes: Classes, variants: int, decided: bool = False
) -> tuple[Prepared, list[Texts]]:
    """Each set's examples as texts, and what is prepared with a word table that has their embeddings behind it.

    Their targets are what the model says that their own set trains; or, where that is `decided`, the class that it decides for.
    """
    start, seed = prepared.start, prepared.config.seed
    words, made = [np.asarray(start.words)], []
    for number, distilled in enumerate(sets):
        rows, split = make_stand_ins(distilled.data, sum(map(len, words)), variants, seed + number)
        words.append(rows)
        made.append(split)
    table = jnp.asarray(np.concatenate(words))
    texts = []
    one_class = prepared.learner.task.groups(2) > 1
    for distilled, split, columns in zip(sets, made, classes.columns, strict=True):
        learner = distilled.learner(prepared.pretrained)
        data = jax.tree.map(jnp.asarray, distilled.data)
        params = train_small(learner, distilled.recipe, start, data, head_key(prepared, 0))
        asked = ask(params, learner, table, split, prepared.config.evaluate.batch_size, distilled.data.examples if decided else 0)
        texts.append(widen(asked, columns, len(classes.names), one_class))
    return replace(prepared, start=Start(start.body, place_parameters(table, prepared.mesh), start.pooler)), texts


def score_stand_ins(prepared: Prepared, texts: list[Texts]) -> MeanScorer:
    """The mean of the figures on each set's examples."""
    config, scorers = prepared.config, []
    for number, part in enumerate(texts):
        learner, split, task = prepared.learner, part.labelled, prepared.learner.task
        if isinstance(task, MultiHead):  # one set for each head, which decides among its own classes
            learner = use_head(learner, number)
            split = replace(split, labels=split.labels - task.columns(number).start)
        fixed = (config.evaluate.batch_size, prepared.buckets, 0, config.seed, prepared.mesh, prepared.metric, prepared.tokens_at_once)
        scorers.append(Scorer(learner, prepared.start.words, split, *fixed))
    return MeanScorer(tuple(scorers))


def as_distilled(prepared: Prepared) -> Distilled:
    """The data set before distillation, as config.distill makes it of a corpus, with the card of an exported one."""
    config = prepared.config
    card = describe_base(prepared.pretrained, prepared.learner, config.data.length, bool(config.data.pair_column))
    data = jax.tree.map(np.asarray, first_data(prepared))
    card |= {"label_names": list(prepared.tokens.label_names), "corpus": prepared.tokens.fingerprint}
    return Distilled(data, recipe_of(config.distill), card)


def of_texts(merged: Merged, prepared: Prepared) -> Merged:
    """The set with a card that says on which corpus it is learned."""
    return replace(merged, card=merged.card | {"corpus": prepared.tokens.fingerprint})


def _learned(
    prepared: Prepared, merged: Merged, parts: tuple[str, ...], stream: Any, scorer: Any, work: Work, teacher: Teacher | None = None
) -> Merged:
    how = (parts, stream, scorer, work.folder, work.open_metrics, work.outer_steps, teacher, work.stage)
    data, figures = learn_again(prepared, merged.data, merged.recipe, *how)
    figures["distillation_seconds"] += merged.card.get("distillation_seconds", 0.0)
    return replace(merged, data=data, card=merged.card | figures)
