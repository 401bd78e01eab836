"""Fine-tuning on the whole training split: the baseline that every percentage in the results refers to.

The usual recipe: AdamW without decay of biases and norms, a linear rise and fall of the rate, clipped gradients, and the parameters of
the best validation. Batches hold texts of similar length. Runs resume from their last checkpoint with the same numbers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from ddllm.data.batches import Batch, BatchStream
from ddllm.models.encoder import Tree
from ddllm.models.heads import init_head
from ddllm.models.parts import count_parts, differentiate
from ddllm.models.products import in_products
from ddllm.models.scoring import real_loss
from ddllm.prepare import Prepared
from ddllm.report.results import ACCURACY, summarise
from ddllm.runtime.checkpoints import Checkpoints
from ddllm.runtime.devices import place
from ddllm.runtime.loop import Loop, keep_best, no_best
from ddllm.runtime.mesh import TEXTS, count_copies, parameter_shardings, place_parameters
from ddllm.runtime.metrics import Metrics

STAGE = "finetune"


class FinetuneState(NamedTuple):
    """What a fine-tuning run carries.

    Attributes:
        step: steps done.
        params: {"body", "head"} and, where it is trained, "words".
        optimizer: state of the optimizer.
        best: {"params", "accuracy" (or what else is chosen by), "step"} of the best validation so far.
    """

    step: jax.Array
    params: Tree
    optimizer: Any
    best: dict[str, Any]


def decayed(params: Tree) -> Tree:
    """True for kernels and tables, False for biases and norms, which get no weight decay."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key not in ("bias", "scale"), params)


def finetune_optimizer(config: ConfigDict, steps: int) -> optax.GradientTransformation:
    """AdamW with linear warm-up and decay, as config.finetune says."""
    warmup = max(int(config.warmup * steps), 1)
    schedule = optax.join_schedules(
        [optax.linear_schedule(config.rate / warmup, config.rate, warmup), optax.linear_schedule(config.rate, 0.0, max(steps - warmup, 1))],
        [warmup],
    )
    clip = optax.clip_by_global_norm(config.clip) if config.clip else optax.identity()
    return optax.chain(clip, optax.adamw(schedule, weight_decay=config.weight_decay, mask=decayed))


class Penalty(NamedTuple):
    """What is added to the loss of every batch.

    Attributes:
        value: (parameters, constants) to a scalar.
        constants: arrays, handed in rather than closed over.
    """

    value: Callable[[Tree, Any], jax.Array]
    constants: Any


def finetune(
    prepared: Prepared,
    seed: int,
    checkpoints: Checkpoints,
    metrics: Metrics,
    name: str = "",
    *,
    begin: Tree | None = None,
    stream: Any = None,
    penalty: Penalty | None = None,
) -> tuple[FinetuneState, float]:
    """Fine-tune once on the whole training split, or on what a stream gives.

    Args:
        prepared: data, model and configuration.
        seed: of the head and of the order of texts; a run of another seed than the configuration's writes figures under a name of its own.
        checkpoints: where the state goes and comes from.
        metrics: where figures are written.
        name: of the figures, instead of the stage's.
        begin: parameters {"body", "head"} to start from; left out, the pretrained ones and a head drawn by the seed.
        stream: batches by number, with `batches_per_epoch`; left out, those of the training split.
        penalty: added to the loss.

    Returns:
        The last state, whose `best` is to be used, and the seconds of all starts of this run together.

    Raises:
        Diverged: the loss became NaN or infinite.
    """
    config, start, learner = prepared.config.finetune, prepared.start, prepared.learner
    stream = stream or BatchStream(prepared.tokens.train, config.batch_size, seed, prepared.buckets)
    steps = max(round(config.epochs * stream.batches_per_epoch), 1)
    optimizer = finetune_optimizer(config, steps)
    scorer = prepared.scorer(prepared.tokens.validation)
    split, shares = NamedSharding(prepared.mesh, TEXTS), count_copies(prepared.mesh)

    head = None if begin else init_head(jax.random.key(seed), learner.head, learner.encoder.hidden, start.pooler)
    params = (begin or {"body": start.body, "head": head}) | ({"words": start.words} if config.train_words else {})
    state = FinetuneState(jnp.asarray(0, jnp.int32), copied(params), optimizer.init(params), no_best({"params": copied(params)}))
    state, words = place_parameters((state, start.words), prepared.mesh)
    shardings = parameter_shardings((state.params, state.optimizer), prepared.mesh)

    def measure(params: Tree, words: jax.Array, batch: Batch, constants: Any) -> tuple[tuple[jax.Array, jax.Array], Tree]:
        def loss(params: Tree, batch: Batch) -> tuple[jax.Array, jax.Array]:
            return real_loss(params, learner, params.get("words", words), batch)

        count = count_parts(len(batch.ids) // shares, batch.ids.shape[1], prepared.tokens_at_once)
        (value, agreement), gradient = differentiate(loss, params, batch, count)
        if penalty:
            more, pull = jax.value_and_grad(penalty.value)(params, constants)
            value, gradient = value + more, jax.tree.map(jnp.add, gradient, pull)
        return (value, agreement), gradient

    def move(params: Tree, memory: Any, gradient: Tree) -> tuple[Tree, Any]:
        updates, memory = optimizer.update(gradient, memory, params)
        return jax.tree.map(jnp.add, params, updates), memory

    # Two programs: only the first is compiled again for each padded length.
    compiled_measure = jax.jit(measure)
    compiled_move = jax.jit(move, donate_argnums=(0, 1), out_shardings=shardings)

    def advance(state: FinetuneState, index: int) -> tuple[FinetuneState, dict[str, jax.Array]]:
        batch = place(stream.batch(index), split)
        (value, agreement), gradient = compiled_measure(state.params, words, batch, penalty and penalty.constants)
        params, memory = compiled_move(state.params, state.optimizer, gradient)
        return FinetuneState(state.step + 1, params, memory, state.best), {"loss": value, learner.task.progress: agreement}

    def validate(state: FinetuneState) -> tuple[FinetuneState, float]:
        reached = scorer.figure(state.params, state.params.get("words"))
        return state._replace(best=keep_best(state.best, lambda: {"params": copied(state.params)}, reached, state.step)), reached

    stage = name or (STAGE if seed == prepared.config.seed else f"{STAGE}-{seed}")
    # Rounded up, so that the last one falls on the last step rather than just before it.
    validate_every, checkpoint_every = -(-steps // config.validations), -(-steps // config.checkpoints)
    loop = Loop(stage, steps, validate_every, checkpoint_every, checkpoints, metrics, prepared.metric)
    return loop.run(state, advance, validate)


def copied(tree: Tree) -> Tree:
    """A copy of its own: parameters are donated to each step, and some are needed again."""
    return jax.tree.map(lambda x: jnp.array(x, copy=True), tree)


def score_finetuned(prepared: Prepared, state: FinetuneState) -> dict[str, float]:
    """Figures on the test texts of the parameters of the best validation."""
    params = jax.tree.map(jnp.asarray, state.best["params"])
    return prepared.scorer(prepared.tokens.test).scores(params, params.get("words"))


def full_row(
    scores: list[dict[str, float]], seconds: float, texts: int, config: ConfigDict, metric: str = ACCURACY, products: str = "float32"
) -> dict[str, Any]:
    """The results' row of full-data fine-tuning, from the figures of its runs on test texts."""
    chosen = f"parameters chosen on validation{in_products(products)}"
    return {
        "name": "full",
        "examples_per_class": None,
        "examples": texts,
        **summarise(scores, metric),
        "seconds": seconds,
        "note": f"all training texts, {config.epochs:g} epoch{'s' * (config.epochs != 1)} of AdamW at {config.rate:g}, {chosen}",
    }
