"""Splicing: real training sentences, chosen from a pool by the meta-gradient, with labels and rates learned for them.

First the whole pool is trained on at once, each sentence with a share of the loss in every inner step that is learned with the rates: the learned order of
distill/order.py, with a sentence for every inner batch. The sentences with the largest shares of their class are kept, and their labels and rates learned
anew without the others. What comes out are sentences that somebody wrote, whole ones where the corpus has enough that fit config.distill.length: as
fluent as the corpus, without a language model.
"""

from dataclasses import replace

import jax
import numpy as np

from ddllm.artefact.base import Distilled
from ddllm.data.splits import strata
from ddllm.distill import initialise
from ddllm.distill.dataset import DistilledData, group_names
from ddllm.distill.plan import complete, recipe_of
from ddllm.models.heads import init_head
from ddllm.prepare import Prepared
from ddllm.runtime.processes import from_first
from ddllm.runtime.progress import say
from ddllm.select.methods import rows_of_classes
from ddllm.text.checks import check_pool
from ddllm.text.distilled_text import FREE, DistilledText, frame_of, make_text
from ddllm.text.learn import Desk, learn, learned_beside, plan_texts


def splice(prepared: Prepared, distilled: Distilled | None, desk: Desk) -> DistilledText:
    """Choose sentences by learned shares, then learn their labels and rates.

    Args:
        prepared: data and model; config.text.pool says how many sentences of each class are chosen from.
        distilled: left out, since real sentences are begun with.
        desk: where to work.

    Raises:
        UserError: the pool is smaller than what is to be chosen, or a class has fewer texts.
    """
    prepared, _, recipe = plan_texts(prepared)
    config, train, classes = prepared.config, prepared.tokens.train, prepared.classes
    per_class = config.distill.examples_per_class
    check_pool(config.text, per_class)
    if distilled is not None:
        say("  splice begins with real sentences: config.text.start counts for the other routes alone")
    pool = pool_size(prepared)
    rng = np.random.default_rng([config.seed, 37])
    picked = from_first(lambda: initialise.pick_examples(train, classes, pool, rng, at_most=config.distill.length))
    rows = np.concatenate(picked)
    shares_P = choose(prepared, rows, desk) if pool > per_class else np.ones(len(rows))
    chosen = [part[np.sort(np.argsort(-shares, kind="stable")[:per_class])] for part, shares in zip(picked, np.split(shares_P, classes), strict=True)]
    data = real_sentences(prepared, chosen, config.distill.batches, config.distill.passes)
    ids = initialise.fit(train.ids[initialise.deal_rows(chosen, config.distill.batches)], config.distill.length)
    frame = frame_of(prepared, data.mask)
    ids = np.where(frame == FREE, ids, frame)  # a sentence that was cut ends like a whole one
    data = data.replace(embeddings=np.asarray(prepared.pretrained.words, np.float32)[ids])
    found = learn(prepared, data, learned_beside(data, recipe), desk, "text splice")
    return make_text(prepared, ids, data.replace(**found.learned), recipe, **found.notes)


def pool_size(prepared: Prepared) -> int:
    """How many sentences of each class are chosen from: config.text.pool, or as many as the smallest class has.

    Raises:
        UserError: a class has fewer than are to be chosen.
    """
    config, names = prepared.config, prepared.tokens.label_names
    groups = rows_of_classes(strata(prepared.tokens.train.labels), prepared.classes, config.distill.examples_per_class, names)
    smallest = min(range(len(groups)), key=lambda label: len(groups[label]))
    least, pool = len(groups[smallest]), config.text.pool
    if least < pool:
        whose = f"the class {names[smallest]} has {least} training texts" if len(groups) > 1 else f"there are {least} training texts"
        say(f"  {whose}, fewer than config.text.pool={pool}: sentences are chosen from {least}" + " of each class" * (len(groups) > 1))
    return min(pool, least)


def choose(prepared: Prepared, rows: np.ndarray, desk: Desk) -> np.ndarray:
    """The mean share [P] that each sentence of a pool has in the inner steps, learned with labels and rates.

    Args:
        prepared: data and model.
        rows: numbers of the training texts in the pool.
        desk: where to work.
    """
    data, config = real_sentences(prepared, [rows], len(rows), 1), prepared.config.copy_and_resolve_references()
    # As many steps as there will be, each with all of the pool, and none as it might be otherwise.
    config.distill.robust = ()
    config.distill.passes, config.distill.order, config.distill.inner_optimizer = config.distill.batches * config.distill.passes, "learned", "sgd"
    prepared = replace(prepared, config=config)
    steps = config.distill.passes
    data = data.replace(rates=data.rates[:1].repeat(steps, axis=0), order=np.zeros((steps, len(rows)), np.float32), momentum=None)
    learned = learned_beside(data, recipe_of(config.distill))
    found = learn(prepared, data, learned, desk, "text pool")
    shares_P = np.asarray(jax.nn.softmax(found.learned["order"], axis=-1)).mean(axis=0)
    say(f"  of {len(rows)} sentences the one with the largest share has {shares_P.max():.1%} of the loss; an equal share is {1 / len(rows):.1%}")
    return shares_P


def real_sentences(prepared: Prepared, picked: list[np.ndarray], batches: int, passes: int) -> DistilledData:
    """Whole sentences as config.distill begins with them: see `initialise.assemble`.

    Args:
        prepared: data and model.
        picked: row numbers of training texts, an array for each class, or one for all.
        batches: inner batches they are dealt into.
        passes: over these.
    """
    config, train = prepared.config.distill, prepared.tokens.train
    words = np.asarray(prepared.pretrained.words, np.float32)
    embeddings, mask = initialise.real_data(words, train, picked, batches, config.length)
    head = init_head(jax.random.key(prepared.config.seed), prepared.learner.head, prepared.pretrained.config.hidden, prepared.start.pooler)
    groups = group_names({"body": prepared.start.body, "head": head}, config.rates)
    labels = train.labels[initialise.deal_rows(picked, batches)]
    data = initialise.assemble(
        embeddings,
        mask,
        classes=len(picked),
        per_class=len(picked[0]),
        passes=passes,
        kind=config.labels,
        groups=len(groups),
        rate=config.initial_rate,
        labels=prepared.learner.task.store(labels, len(prepared.tokens.label_names), config.labels),
    )
    return complete(prepared, data, head)
