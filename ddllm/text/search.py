"""Coordinate search: single tokens of finished texts are exchanged where that lowers the true outer loss.

A round takes the meta-gradient with respect to the embeddings, estimates by it how the loss would change with each token in each place (HotFlip, Ebrahimi et
al., 2018, arXiv 1712.06751), trains on the most promising texts in truth, and joins the best exchanges of different places. A text is only ever replaced by one
with a lower loss on a fixed set of training texts; with config.text.fluency_weight, with a lower sum of that loss and how much the text would surprise a
language model (see fluency.py): bigrams of the training texts, or with config.text.fluency_model a causal one.

The gradient and the bigrams know every token in every place. A causal model does not: it ranks their config.text.fluency_candidates best exchanges, by the
estimated loss and its own, before any is tried in truth. A round costs it these texts, each once, and a few joint ones, in two calls of batched passes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddllm.artefact.base import Distilled
from ddllm.data.batches import Batch, BatchStream
from ddllm.data.tokens import load_tokenizer
from ddllm.distill.dataset import DistilledData, Recipe
from ddllm.distill.inner_loop import train
from ddllm.distill.memory import check_memory
from ddllm.distill.outer_step import OuterStep
from ddllm.distill.plan import make_outer_step
from ddllm.models.learner import Learner, Start
from ddllm.models.scoring import real_loss
from ddllm.prepare import Prepared
from ddllm.runtime.checkpoints import Checkpoints
from ddllm.runtime.loop import Diverged, Loop, keep_best, no_best
from ddllm.runtime.progress import say
from ddllm.text.allowed import FIRST, REST, allowed_by, begins, index_of
from ddllm.text.distilled_text import FREE, DistilledText, frame_of, make_text
from ddllm.text.fluency import Bigrams, Causal
from ddllm.text.learn import Desk, plan_texts
from ddllm.text.likelihood import open_language_model
from ddllm.text.straight import snap

NAME = "text search"


class SearchState(NamedTuple):
    """Everything that a search carries.

    Attributes:
        step: rounds done.
        ids: the text with the lowest loss so far, int32 [M, N, T].
        loss: its outer loss, and its surprise times config.text.fluency_weight.
        tried: exchanges, from the most promising on, that have not helped this text.
        best: {"ids", "accuracy", "step"} of the best validation.
    """

    step: jax.Array
    ids: jax.Array
    loss: jax.Array
    tried: jax.Array
    best: dict[str, Any]


class Search:
    """What the rounds of one search share.

    Args:
        prepared: data, model and configuration.
        data, recipe: of the texts; embeddings do not matter.
        frame: tokens that stay [M, N, T], `FREE` elsewhere.
        allowed: bool [2, V], tokens that may be taken at a text's first free position and at the others; [V] for all alike.
        batch: real texts of the outer loss.
        bigrams: a language model; None where fluency does not count.
        causal: another, whose judgement then counts, while bigrams say what is worth its time.
    """

    def __init__(
        self,
        prepared: Prepared,
        data: DistilledData,
        recipe: Recipe,
        frame: np.ndarray,
        allowed: np.ndarray,
        batch: Batch,
        bigrams: Bigrams | None = None,
        causal: Causal | None = None,
    ) -> None:
        config = prepared.config.text
        self.prepared, self.data, self.recipe, self.batch = prepared, jax.tree.map(jnp.asarray, data), recipe, batch
        self.bigrams, self.causal, self.fluency = bigrams, causal, config.fluency_weight
        self.free, self.begins, self.allowed = jnp.asarray(frame == FREE), begins(frame), jnp.asarray(np.broadcast_to(allowed, (2, np.shape(allowed)[-1])))
        self.key = jax.random.key(prepared.config.seed)
        self.step: OuterStep = make_outer_step(prepared, data)
        self.each, self.together = min(config.k, max(int(self.allowed.sum(axis=1).max()) - 1, 1)), config.together
        self.candidates = min(config.candidates, int(self.free.sum()) * self.each)
        # Exchanges that a round looks at, the tried ones among them.
        self.looked_at = max(config.fluency_candidates if causal else 0, self.candidates)

    def losses(self, texts: list[np.ndarray]) -> np.ndarray:
        """True outer loss of each text [M, N, T], in programs for `candidates` texts or for one; fluency counted in."""
        size = self.candidates if len(texts) > 1 else 1
        filled = np.stack([*texts, *[texts[-1]] * (-len(texts) % size)]).reshape(-1, size, *texts[0].shape)
        common = (self.prepared.learner, self.recipe, self.prepared.start, self.data, self.key, self.batch)
        found = [_losses(*common, jnp.asarray(ids), together=min(self.together, size)) for ids in filled]
        losses = np.concatenate([np.asarray(losses) for losses in found])[: len(texts)]
        return losses if self.bigrams is None else losses + self.fluency * self.surprises(texts).astype(np.float32)

    def surprises(self, texts: list[np.ndarray]) -> np.ndarray:
        """How much each text [M, N, T] surprises the language model."""
        if self.causal:
            return self.causal.surprises(texts, self.data.mask)
        assert self.bigrams is not None
        return np.array([self.bigrams.surprise(ids, self.data.mask) for ids in texts])

    def promising(self, ids_MNT: np.ndarray, skip: int) -> list[tuple[int, int]]:
        """The next (place, token) exchanges by the first-order estimate, `skip` of them left out; places are counted through all texts.

        A causal model has the last word: of `looked_at` exchanges the `candidates` with the lowest sum of estimated loss and surprise.

        Raises:
            Diverged: no gradient is a finite number.
        """
        embeddings = self.prepared.start.words[jnp.asarray(ids_MNT)]
        _, _, gradient = self.step.gradient({"embeddings": embeddings}, self.batch, self.key)
        more_PV = None if self.bigrams is None else self.fluency * self.bigrams.gains(ids_MNT, self.data.mask)
        inputs = (gradient["embeddings"], self.prepared.start.words, jnp.asarray(ids_MNT), self.free, self.begins, self.allowed)
        tokens, gains = _estimate(*inputs, more_PV, each=self.each)
        tokens, gains = np.asarray(tokens).ravel(), np.asarray(gains).ravel()
        if np.isnan(gains).any() and not np.isfinite(gains).any():
            raise Diverged(
                f"{NAME} stopped, since training on the text leads to numbers that are not finite. Start anew, in another working directory, with a smaller "
                "config.distill.initial_rate."
            )
        order = np.argsort(-gains, kind="stable")[skip : skip + self.looked_at]
        order = order[np.isfinite(gains[order])]
        exchanges = [(int(number) // self.each, int(tokens[number])) for number in order]
        if self.causal is None or not exchanges:
            return exchanges
        assert more_PV is not None
        by_bigrams = np.array([more_PV[place, token] for place, token in exchanges])
        surprises = self.surprises([exchange(ids_MNT, [each]) for each in exchanges])
        ranked = np.argsort(self.fluency * surprises - (gains[order] - by_bigrams), kind="stable")[: self.candidates]
        return [exchanges[place] for place in ranked]

    def advance(self, state: SearchState, index: int) -> tuple[SearchState, dict[str, jax.Array]]:
        """One round; where there is nothing to exchange, the text stays."""
        ids, loss = np.asarray(state.ids), float(state.loss)
        exchanges = self.promising(ids, int(state.tried))
        if not exchanges:  # everything that the gradient speaks for has been tried
            exchanges = self.promising(ids, 0)
        if not exchanges:  # nor is there another allowed token
            return state._replace(step=state.step + 1), {"loss": state.loss, "exchanged": jnp.asarray(0)}
        singles = [exchange(ids, [each]) for each in exchanges]
        losses = self.losses(singles)
        helping = [exchanges[place] for place in np.argsort(losses, kind="stable") if losses[place] < loss]
        joint = [exchange(ids, helping[:count]) for count in _doublings(len(helping))]
        joint_losses = self.losses(joint) if joint else np.empty(0)
        texts, found = [*singles, *joint], np.nan_to_num(np.concatenate([losses, joint_losses]), nan=np.inf)
        lowest = int(np.argmin(found))
        better = found[lowest] < loss
        new = SearchState(
            state.step + 1,
            jnp.asarray(texts[lowest] if better else ids),
            jnp.asarray(found[lowest] if better else loss, jnp.float32),
            jnp.asarray(0 if better else int(state.tried) + self.looked_at, jnp.int32),
            state.best,
        )
        changed = int(np.sum(np.asarray(new.ids) != ids))
        return new, {"loss": new.loss, "exchanged": jnp.asarray(changed)}


def exchange(ids_MNT: np.ndarray, exchanges: list[tuple[int, int]]) -> np.ndarray:
    """The text with other tokens in some places; of several for one place the first."""
    ids = ids_MNT.copy().ravel()
    for place, token in reversed(exchanges):
        ids[place] = token
    return ids.reshape(ids_MNT.shape)


def _doublings(count: int) -> list[int]:
    """2, 4, 8, … up to `count` itself."""
    return sorted({*(2**power for power in range(1, count.bit_length()) if 2**power < count), count} - {0, 1})


@partial(jax.jit, static_argnames=("learner", "recipe", "together"))
def _losses(
    learner: Learner, recipe: Recipe, start: Start, data: DistilledData, key: jax.Array, batch: Batch, ids_KMNT: jax.Array, together: int
) -> jax.Array:
    def one(ids_MNT: jax.Array) -> jax.Array:
        params = train(learner, recipe, start, data.replace(embeddings=start.words[ids_MNT]), key)
        return real_loss(params, learner, start.words, batch)[0]

    return jax.lax.map(one, ids_KMNT, batch_size=together)


@partial(jax.jit, static_argnames="each")
def _estimate(
    gradient_MNTD: jax.Array,
    words_VD: jax.Array,
    ids_MNT: jax.Array,
    free_MNT: jax.Array,
    begins_MNT: jax.Array,
    allowed_2V: jax.Array,
    more_PV: jax.Array | None,
    each: int,
) -> tuple[jax.Array, jax.Array]:
    """For each place the tokens [P, each] that should lower the loss most, and by how much; -inf where it is not free."""

    def one(inputs: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        gradient_D, current, free, first, *more_V = inputs
        gains_V = sum(more_V, jnp.dot(words_VD[current][None] - words_VD, gradient_D, precision=jax.lax.Precision.HIGHEST))
        possible_V = allowed_2V[jnp.where(first, FIRST, REST)] & (jnp.arange(len(gains_V)) != current) & free
        gains, tokens = jax.lax.top_k(jnp.where(possible_V, gains_V, -jnp.inf), each)
        return tokens, gains

    flat = (gradient_MNTD.reshape(-1, gradient_MNTD.shape[-1]), ids_MNT.ravel(), free_MNT.ravel(), begins_MNT.ravel())
    return jax.lax.map(one, flat if more_PV is None else (*flat, more_PV))


def search(
    prepared: Prepared, distilled: Distilled | None, desk: Desk, watch: Callable[[SearchState], None] | None = None
) -> DistilledText:
    """Exchange tokens for config.text.rounds rounds.

    Args:
        prepared: data and model.
        distilled: whose nearest tokens are begun with, its labels and rates; None: what config.distill begins with.
        desk: where to work.
        watch: is shown the state after each round.

    Raises:
        Diverged: training on the texts leads to numbers that are not finite.
        UserError: a round needs more memory than there is.
    """
    prepared, data, recipe = plan_texts(prepared, distilled)
    config, distill = prepared.config.text, prepared.config.distill
    distill.heads = 1  # the same one in every round, so that losses can be compared
    if distill.pool or distill.bodies:
        say("  a search compares losses from the pretrained model alone: config.distill.pool and config.distill.bodies are left out")
    frame, allowed = frame_of(prepared, data.mask), allowed_by(prepared)
    first = snap(data.embeddings, index_of(prepared, allowed), frame)
    train_texts = prepared.tokens.train
    # As many as the devices can share out evenly.
    shares = prepared.mesh.shape["data"]
    size = max(min(config.search_texts, len(train_texts)) // shares, 1) * shares
    stream = BatchStream(train_texts, size, prepared.config.seed, prepared.buckets, distill.balanced)
    scorer = prepared.scorer(prepared.tokens.validation, distill.validation_texts)
    checkpoints = Checkpoints(desk.folder / "search", distill.checkpoints_kept)
    unfinished = (checkpoints.latest() or 0) < config.rounds
    teacher = desk.teacher() if desk.teacher and unfinished else None
    batch = stream.batch(0)
    bigrams = Bigrams.of(train_texts, allowed.shape[1]) if config.fluency_weight else None
    causal = Causal(open_language_model(config.fluency_model), load_tokenizer(prepared.pretrained.folder)) if config.fluency_model else None
    work = Search(prepared, data, recipe, frame, allowed, teacher.teach(batch) if teacher else batch, bigrams, causal)
    if unfinished:
        distill.batch_size = size  # of the real batch whose step is accounted for
        check_memory(prepared, work.step, data, ("embeddings",))
    loss = jnp.asarray(work.losses([np.asarray(first)])[0] if unfinished else 0.0, jnp.float32)
    zero = jnp.asarray(0, jnp.int32)
    state = SearchState(zero, first, loss, zero, no_best({"ids": first}))

    def advance(state: SearchState, index: int) -> tuple[SearchState, dict[str, jax.Array]]:
        state, figures = work.advance(state, index)
        if watch:
            watch(state)
        return state, figures

    def validate(state: SearchState) -> tuple[SearchState, float]:
        params = work.step.train({"embeddings": prepared.start.words[state.ids]}, work.key)
        reached = scorer.figure(params)
        return state._replace(best=keep_best(state.best, {"ids": state.ids}, reached, state.step)), reached

    metrics = desk.metrics()
    every = min(distill.validate_every, max(config.rounds // 10, 1))
    loop = Loop(desk.named(NAME), config.rounds, every, 1, checkpoints, metrics, prepared.metric)
    try:
        state, seconds = loop.run(state, advance, validate)
    finally:
        checkpoints.close()
        metrics.close()
    notes = {
        f"validation_{prepared.metric}": float(state.best["accuracy"]),
        "outer_step": int(state.best["step"]),
        "outer_steps": config.rounds,
        "distillation_seconds": seconds,
    }
    return make_text(prepared, state.best["ids"], data, recipe, **notes)
