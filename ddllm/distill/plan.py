"""From a configuration to what the outer loop needs: the first distilled data set, the recipe and the outer step."""

from functools import partial
from os.path import expanduser
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddllm.data.corpus import read_examples
from ddllm.data.splits import strata
from ddllm.data.tokens import TokenSplit, check_words
from ddllm.distill import initialise
from ddllm.distill.auxiliary import noise_attention, pretrained_labels
from ddllm.distill.dataset import DistilledData, Recipe, group_names, raw_rate, raw_share
from ddllm.distill.gains import first_gains
from ddllm.distill.gradients import METHODS
from ddllm.distill.optimizers import LEARNED_MOMENTUM
from ddllm.distill.order import first_order
from ddllm.distill.outer_loop import outer_optimizer
from ddllm.distill.outer_step import OuterStep
from ddllm.distill.probe import own_labels, probe_head
from ddllm.distill.shaping import Shaping
from ddllm.distill.truncation import Truncation
from ddllm.distill.word_scores import add_rate, first_scores, first_shares
from ddllm.errors import UserError
from ddllm.models.encoder import Tree
from ddllm.models.heads import init_head
from ddllm.models.learner import Start
from ddllm.prepare import Prepared
from ddllm.runtime.devices import has_host_memory
from ddllm.runtime.processes import from_first
from ddllm.select.methods import SELECTIONS, rows_of_classes


def picked_from(prepared: Prepared) -> TokenSplit | None:
    """The texts among which config.distill.initial picks the first examples: those of train or of its own file; None for noise.

    Raises:
        UserError: a class has fewer texts than are to be picked, or there is no such file, it cannot be read or has tokens that the model does not know.
    """
    config, tokens = prepared.config, prepared.tokens
    initial = config.distill.initial
    if initial in ("noise", "normal"):
        return None
    enough = partial(rows_of_classes, classes=prepared.classes, per_class=config.distill.examples_per_class, names=tokens.label_names)
    if initial == "real" or initial in SELECTIONS:
        enough(strata(tokens.train.labels))
        return tokens.train
    try:
        split = read_examples(Path(expanduser(initial)), config.data, tokens.label_names, prepared.pretrained.folder, config.distill.length, tokens.task)
        check_words(prepared.pretrained, initial, split)
        enough(strata(split.labels), file=initial)
    except UserError as error:
        raise UserError(f"config.distill.initial: {error}") from None
    return split


def first_data(prepared: Prepared) -> DistilledData:
    """The distilled data set before the first outer step, as config.distill.initial says."""
    config, tokens, classes = prepared.config.distill, prepared.tokens, prepared.classes
    words = np.asarray(prepared.pretrained.words)
    rng = np.random.default_rng([prepared.config.seed, 11])
    per_class, task = config.examples_per_class, prepared.learner.task
    split = picked_from(prepared)
    if split is None:
        shape = (config.batches, classes * per_class // config.batches, config.length)
        embeddings, mask = initialise.noise_data(words, shape, rng, standard=config.initial == "normal")
        types = None if tokens.train.types is None else initialise.noise_types(shape)
        labels = task.spread(tokens.train.labels, shape[:2], np.random.default_rng([prepared.config.seed, 12]))
    else:
        method = "random" if config.initial == "real" else config.initial
        if method in SELECTIONS:
            # Single texts use all positions; of pairs, the second text must not be cut away.
            preferred = "at_most" if prepared.config.data.pair_column else "at_least"
            how = {preferred: config.length, "method": method, "features_nD": prepared.features if method != "random" else None}
            picked = from_first(lambda: initialise.pick_examples(split, classes, per_class, rng, **how))
        else:
            picked = initialise.pick_examples(split, classes, per_class, rng)
        embeddings, mask = initialise.real_data(words, split, picked, config.batches, config.length)
        types = initialise.real_types(split, picked, config.batches, config.length)
        labels = split.labels[initialise.deal_rows(picked, config.batches)]
    head = init_head(jax.random.key(prepared.config.seed), prepared.learner.head, prepared.pretrained.config.hidden, prepared.start.pooler)
    groups = group_names({"body": prepared.start.body, "head": head}, config.rates)
    data = initialise.assemble(
        embeddings,
        mask,
        classes=classes,
        per_class=per_class,
        passes=config.passes,
        kind=config.labels,
        groups=len(groups),
        rate=config.initial_rate,
        types=types,
        labels=None if labels is None else task.store(labels, len(tokens.label_names), config.labels),
    )
    return complete(prepared, data, head)


def complete(prepared: Prepared, data: DistilledData, head: Tree) -> DistilledData:
    """A data set of examples with labels and rates, and everything else that config.distill asks for, before the first outer step.

    Args:
        prepared: data and model.
        data: the examples.
        head: what a learned head is before it is a probe (config.distill.probe_texts).
    """
    config = prepared.config.distill
    if config.head == "learned":
        if config.probe_texts:
            # Every process computes it, since the parameters are common; see `beside_examples`.
            probed = jax.tree.map(np.asarray, probe_head(prepared, head, config.probe_texts))
            head = from_first(lambda: probed)
        data = data.replace(head=head)
        if config.initial_labels == "model":
            own = own_labels(prepared.learner, prepared.start, head, data.embeddings, data.mask, config.labels, data.types)
            data = data.replace(labels=from_first(lambda: own))
    if config.inner_optimizer == LEARNED_MOMENTUM:
        data = data.replace(momentum=np.full(data.steps, raw_share(config.initial_momentum), np.float32))
    if config.order == "learned":
        data = data.replace(order=first_order(config.batches, config.passes))
    return data.replace(**beside_examples(prepared, data))


def beside_examples(prepared: Prepared, data: DistilledData) -> dict[str, np.ndarray]:
    """The auxiliary labels, gains and word scores (with their moves' rates) that config.distill asks for, before the first outer step."""
    config, encoder, labels = prepared.config.distill, prepared.pretrained.config, {}
    noise = config.attention_initial == "noise"
    rows = "none" if noise else config.attention_labels
    if config.feature_labels or rows != "none":
        found = pretrained_labels(prepared.learner, prepared.start, data.embeddings, data.mask, rows, data.types)
        # Every process computes them, perhaps on another kind of machine with other roundings.
        labels = from_first(lambda: found)
    if not config.feature_labels:
        labels.pop("features", None)
    if config.direction_labels:
        labels["directions"] = np.zeros((*data.mask.shape[:2], encoder.layers, encoder.hidden), np.float32)
    if config.gains:
        labels["gains"] = first_gains(prepared.start.body)
    if config.word_scores:
        outputs = data.labels.shape[-1]
        labels["word_scores"] = first_scores(outputs, len(prepared.pretrained.words))
        labels["word_shares"] = first_shares(np.asarray(data.mask), outputs)
        labels["rates"] = add_rate(data.rates, raw_rate(config.initial_rate))
    if noise and config.attention_labels != "none":
        rng = np.random.default_rng([prepared.config.seed, 29])
        labels["attention"] = noise_attention(data.mask.shape, encoder, config.attention_labels, rng)
    return labels


def recipe_of(config: ConfigDict) -> Recipe:
    """The recipe that config.distill describes."""
    weights = {}
    if config.attention_labels != "none":
        weights["attention_weight"] = config.attention_weight
    if config.feature_labels:
        weights["feature_weight"] = config.feature_weight
    return Recipe(config.labels, config.inner_optimizer, config.passes, config.order, **weights)


def truncation_of(config: ConfigDict) -> Truncation | None:
    """The truncation that config.distill describes, if any."""
    return Truncation(config.truncate, config.window == "random", config.curriculum > 0) if config.truncate else None


def take_recipe(config: ConfigDict, data: DistilledData, recipe: Recipe) -> None:
    """Change config.distill to what a data set and its recipe are, the reverse of `recipe_of` and `first_data`."""
    config.update(
        {
            "batches": int(data.mask.shape[0]),
            "passes": recipe.passes,
            "labels": recipe.labels,
            "inner_optimizer": recipe.optimizer,
            "order": recipe.order,
            "attention_labels": "none" if data.attention is None else "cls" if np.ndim(data.attention) == 5 else "all",
            "attention_weight": float(recipe.attention_weight),
            "feature_labels": data.features is not None,
            "feature_weight": float(recipe.feature_weight),
            "direction_labels": data.directions is not None,
            "gains": data.gains is not None,
            "word_scores": data.word_scores is not None,
        }
    )


def make_outer_step(
    prepared: Prepared,
    data: DistilledData,
    mesh: Mesh | None = None,
    others: tuple[Start, ...] = (),
    shaping: Shaping | None = None,
    more: dict[str, float] | None = None,
) -> OuterStep:
    """The outer step of config.distill; `mesh` is used instead of the run's own.

    `others` are what outer steps may start from instead of the pretrained parameters (see bodies.py), `more` the outer rates of parts that only a
    `shaping` knows (see shaping.py).

    Raises:
        UserError: config.distill.offload asks for a memory that the devices do not have.
    """
    config, mesh = prepared.config.distill, mesh or prepared.mesh
    if config.offload and not has_host_memory(mesh.local_devices[0]):
        raise UserError(
            f"config.distill.offload needs a backend that lends devices the host's memory, which {mesh.local_devices[0].platform} does not; set it to False."
        )
    recipe, optimizer, method = recipe_of(config), outer_optimizer(config, more), METHODS[config.gradient](config.offload, prepared.tokens_at_once)
    fixed = (prepared.learner, recipe, prepared.start, data, method, optimizer, mesh)
    curriculum = int(config.curriculum * config.outer_steps)
    options = (config.average, truncation_of(config), config.heads, others, tuple(config.robust), curriculum)
    return OuterStep(*fixed, config.segments, *options, shaping, config.outer_steps)
