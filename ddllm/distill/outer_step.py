"""One outer step: train on the distilled data, measure on a real batch, move the distilled data down the meta-gradient.

The gradient is three compiled programs, so that only the small middle one is compiled again for each padded length of real texts:

    begin      (learned, what is drawn)        ─► trained parameters, pullback, for each head that runs at once
    measure    (trained parameters, batch)     ─► loss, ∂loss/∂parameters, each device with its own head and share of the batch
    pull       (pullback, ∂loss/∂parameters)   ─► ∂loss/∂learned, averaged over heads and shares

`gradient` runs the three, once for every round of heads; a fourth, small one then moves the state. What is averaged over devices is the
gradient of the small distilled data set alone: no parameter-sized array travels along "head" or "data" (see runtime/mesh.py).

Heads that find no device of their own take turns, each from begin to pull, so that they need the memory of one. Batching them in one program
would save little: their parameters part at the first step, so no product is shared, but every one of them would keep its own pullback.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from ddllm.data.batches import Batch
from ddllm.distill.curriculum import shorten
from ddllm.distill.dataset import DistilledData, Recipe
from ddllm.distill.gradients import Method
from ddllm.distill.inner_loop import train
from ddllm.distill.perturb import STEPS, change_steps, draw_steps, perturb, strength_at
from ddllm.distill.shaping import Shaping
from ddllm.distill.truncation import Truncation
from ddllm.models.encoder import Tree
from ddllm.models.learner import Learner, Start
from ddllm.models.parts import count_parts, differentiate
from ddllm.models.scoring import real_loss
from ddllm.runtime.devices import place
from ddllm.runtime.loop import no_best
from ddllm.runtime.mesh import ALL, BATCH, HEAD, HEAD_BATCH, keep_sharded, place_parameters, with_all_axes

# Apart from what heads, orders and windows are drawn with, which are derived from the same key.
BODY = 2**31 - 9
SHAPE = 2**31 - 11


class OuterState(NamedTuple):
    """Everything an outer loop carries: arrays only, so that it can be saved as it is.

    Attributes:
        step: outer steps done.
        learned: the parts of the distilled data that are learned.
        average: their running average (equal to `learned` where averaging is off).
        optimizer: state of the outer optimizer.
        best: {"learned", "accuracy", "step"} of the best validation so far; accuracy, or what else is chosen by, is -1 before the first. With "highest"
            where it need not be the highest one (see runtime/loop.py).
    """

    step: jax.Array
    learned: dict[str, Any]
    average: dict[str, Any]
    optimizer: Any
    best: dict[str, Any]


class Round(NamedTuple):
    """What is drawn for the trainings that run at once, or where that lies.

    Attributes:
        keys: of each.
        strength: of perturbations, from 0 to 1.
    """

    keys: Any
    strength: Any


def initial_state(
    learned: dict[str, Any], optimizer: optax.GradientTransformation, sharding: NamedSharding, late: bool = False
) -> OuterState:
    """The state before the first outer step, placed on every device; `late` as in `no_best`."""
    learned = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), learned)
    state = OuterState(jnp.asarray(0, jnp.int32), learned, learned, optimizer.init(learned), no_best({"learned": learned}, late))
    return place(state, sharding)


class OuterStep:
    """The compiled outer step for one distilled data set, on the devices of one mesh.

    Args:
        learner: encoder and head.
        recipe: constants of the inner loop.
        start: pretrained constants.
        data: gives the parts that are not learned (mask, hard labels).
        method: of differentiation through the inner loop, which also says how many tokens, of inner batches as of real texts, go through the model at once.
        optimizer: of the outer loop.
        mesh: axes "head", "data" and "model" (see runtime/mesh.py), those that are missing counting as 1. The number of heads must be a
            multiple of the first, the size of real batches of the second.
        segments: see `unroll`.
        average: decay of the running average, 0 for none.
        truncation: of the gradient alone; `train` always runs all inner steps.
        heads: redrawn heads H whose mean loss is learned from in every outer step.
        others: pretrained parameters of the same shapes, in host memory, one of which may take the place of `start` (see bodies.py).
        robust: perturbations of the training that the gradient goes through (see perturb.py); `train` is never perturbed.
        curriculum: the outer step from which on all inner steps are run (see curriculum.py); 0: from the first. `train` always runs all.
        shaping: makes what the inner loop is fed with from what is learned (see shaping.py); None: it is what is learned.
        outer_steps: in all, by which a shaping's progress is counted.

    Attributes:
        begin, measure, pull: the compiled programs of the gradient, as the module's docstring says.
        begins: `begin` as the recipe stands, and for every perturbation that changes its steps.
    """

    def __init__(
        self,
        learner: Learner,
        recipe: Recipe,
        start: Start,
        data: DistilledData,
        method: Method,
        optimizer: optax.GradientTransformation,
        mesh: Mesh,
        segments: int = 1,
        average: float = 0.0,
        truncation: Truncation | None = None,
        heads: int = 1,
        others: tuple[Start, ...] = (),
        robust: tuple[str, ...] = (),
        curriculum: int = 0,
        shaping: Shaping | None = None,
        outer_steps: int = 1,
    ) -> None:
        mesh = with_all_axes(mesh)
        everywhere = NamedSharding(mesh, ALL)
        self.learner, self.recipe, self.optimizer, self.heads = learner, recipe, optimizer, heads
        self.everywhere, self.batches, self._heads = everywhere, NamedSharding(mesh, BATCH), NamedSharding(mesh, HEAD)
        self.start, self.others, self.mesh = place_parameters(start, mesh), others, mesh
        self.fixed = place(data, everywhere)
        shards = mesh.shape["model"]
        # Of parameters that devices share, and of what waits in the host's memory, XLA decides where results lie, and says so when it has compiled.
        known = shards == 1 and not method.offload

        def trained(data: DistilledData, recipe: Recipe, start: Start, key: jax.Array, *how: Any) -> Tree:
            return keep_sharded(train(learner, recipe, start, data, key, method, *how), shards)

        def begin(kind: str, learned: dict[str, Any], fixed: DistilledData, start: Start, drawn: Round) -> tuple[Tree, Any]:
            kinds = tuple(name for name in robust if kind != "examples" or name != "order")  # single examples are no batches to be dealt into

            def perturbed(parts: dict[str, Any]) -> Tree:
                data, changed = perturb(*change_steps(fixed.replace(**parts), recipe, kind), kinds, drawn.keys[0], drawn.strength)
                return trained(data, changed, start, drawn.keys[0], segments, truncation)

            return _add_axes(jax.vjp(perturbed, learned), 1)

        def as_learned(learned: dict[str, Any], fixed: DistilledData, start: Start, key: jax.Array) -> Tree:
            return trained(fixed.replace(**learned), recipe, start, key)

        def over_devices(values: Any) -> Any:
            # XLA's partitioner refuses a sum over one device beside a sharded axis.
            return jax.lax.pmean(values, [axis for axis in ("head", "data") if shards == 1 or mesh.shape[axis] > 1])

        def measure(trained: Tree, words: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array, Tree]:
            params = _drop_axes(trained, 1)
            texts, length = batch.ids.shape
            count = count_parts(texts, length, method.tokens_at_once)
            (loss, correct), cotangent = differentiate(lambda params, batch: real_loss(params, learner, words, batch), params, batch, count)
            return *over_devices((loss, correct)), _add_axes(keep_sharded(cotangent, shards), 2)

        def pull(pullback: Any, cotangent: Tree) -> dict[str, Any]:
            return over_devices(_drop_axes(pullback, 1)(_drop_axes(cotangent, 2))[0])

        def move(state: OuterState, gradient: dict[str, Any]) -> tuple[OuterState, jax.Array]:
            updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.learned)
            learned = jax.tree.map(jnp.add, state.learned, updates)
            # A short memory at first: the average must not remember the start for long.
            decay = jnp.minimum(average, (1.0 + state.step) / (10.0 + state.step)) if average else 0.0
            mean = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.average, learned)
            new = OuterState(state.step + 1, learned, mean, optimizer_state, state.best)
            return new, optax.tree.norm(gradient)

        def program(function: Any, in_specs: Any, out_specs: Any) -> Any:
            mapped = jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, axis_names={"head", "data"}, check_vma=False)
            lie = jax.tree.map(partial(NamedSharding, mesh), out_specs) if known else None
            return jax.jit(mapped, out_shardings=lie)

        # Every device unrolls its head's inner loop inside the same kind of map that pulls back, since a pullback can only be used where it was made.
        self.begins = {kind: program(partial(begin, kind), (ALL, ALL, ALL, Round(HEAD, ALL)), HEAD) for kind in ("", *STEPS) if kind in ("", *robust)}
        self.begin, self._robust = self.begins[""], robust
        self.measure = program(measure, (HEAD, ALL, BATCH), (ALL, ALL, HEAD_BATCH))
        self.pull = program(pull, (HEAD, HEAD_BATCH), ALL)
        self._train = program(as_learned, ALL, ALL)
        self._move = jax.jit(move)
        self.shaping, self._outer_steps = shaping, outer_steps
        if shaping is not None:
            self._settle = jax.jit(lambda shaping, *arguments: shaping.settle(*arguments), out_shardings=everywhere)
            self._use = jax.jit(lambda shaping, *arguments: shaping.use(*arguments), out_shardings=everywhere)
            self._final = jax.jit(lambda shaping, *arguments: shaping.final(*arguments), out_shardings=everywhere)
            self._carry_back = jax.jit(_carry_back, out_shardings=everywhere)
        self._reached = jax.jit(lambda learned, step: shorten(learned, step, curriculum)) if curriculum else lambda learned, _: learned
        self._add = jax.jit(lambda one, other: jax.tree.map(jnp.add, one, other))
        self._divide = jax.jit(lambda sums: jax.tree.map(lambda x: x / (heads // mesh.shape["head"]), sums))

    def __call__(self, state: OuterState, batch: Batch, key: jax.Array) -> tuple[OuterState, dict[str, jax.Array]]:
        """Do one outer step.

        Args:
            state: before the step.
            batch: real texts; their number is a multiple of the mesh's axis "data".
            key: of the redrawn heads (see `rounds`), a shuffled order, a random window, a body.

        Returns:
            The state after it, and {"loss", the task's "accuracy" or other agreement on the real batch, "gradient_norm"} still on the device.
        """
        progress = state.step / self._outer_steps
        if self.shaping is None:
            loss, agreement, gradient = self.gradient(self._reached(state.learned, state.step), batch, key, progress)
        else:
            words = self.start.words
            state = state._replace(learned=self._settle(self.shaping, state.learned, words, progress))
            used = (words, progress, jax.random.fold_in(key, SHAPE))
            fed = self._use(self.shaping, state.learned, *used)
            loss, agreement, gradient = self.gradient(self._reached(fed, state.step), batch, key, progress)
            gradient = self._carry_back(self.shaping, gradient, state.learned, *used)
        state, norm = self._move(state, gradient)
        return state, {"loss": loss, self.learner.task.progress: agreement, "gradient_norm": norm}

    def gradient(
        self, learned: dict[str, Any], batch: Batch, key: jax.Array, progress: float | jax.Array = 1.0
    ) -> tuple[jax.Array, jax.Array, dict[str, Any]]:
        """Loss and agreement (see models/task.py) on the real batch after training on the distilled data, and the loss's gradient by what is learned.

        All are means over heads. `progress` is the share of the outer steps that have been done, by which perturbations grow.
        """
        batch = place(batch, self.batches)
        strength = strength_at(progress) if self._robust else 1.0
        start, begin = self.draw_start(key), self.begins[draw_steps(self._robust, key, strength)]
        first, *others = self.rounds(key, strength)
        sums = self._round(begin, learned, batch, start, first)
        for drawn in others:
            jax.block_until_ready(sums)  # nothing in a round depends on the one before, so both would be in memory
            sums = self._add(sums, self._round(begin, learned, batch, start, drawn))
        return self._divide(sums) if others else sums

    def rounds(self, key: jax.Array, strength: float | jax.Array = 1.0) -> list[Round]:
        """Keys of the heads that run at once, round after round, with the strength of their perturbations; a single head has the step's own key."""
        keys = key[None] if self.heads == 1 else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(self.heads))
        size, strength = self._heads.mesh.shape["head"], place(jnp.asarray(strength, jnp.float32), self.everywhere)
        return [Round(place(keys[first : first + size], self._heads), strength) for first in range(0, self.heads, size)]

    def draw_start(self, key: jax.Array) -> Start:
        """What an outer step with this key starts from, on the devices: the pretrained parameters or one of the others, all equally likely."""
        index = int(jax.random.randint(jax.random.fold_in(key, BODY), (), 0, len(self.others) + 1)) if self.others else 0
        return place_parameters(self.others[index - 1], self.mesh) if index else self.start

    def _round(self, begin: Any, learned: dict[str, Any], batch: Batch, start: Start, drawn: Round) -> tuple[jax.Array, jax.Array, dict[str, Any]]:
        trained, pullback = begin(learned, self.fixed, start, drawn)
        loss, accuracy, cotangent = self.measure(trained, start.words, batch)
        del trained  # a tree of parameters that pulling back needs no more
        return loss, accuracy, self.pull(pullback, cotangent)

    def train(self, learned: dict[str, Any], key: jax.Array) -> Tree:
        """Parameters trained from the pretrained ones on the distilled data as learned so far."""
        return self._train(self.final(learned), self.fixed, self.start, key)

    def final(self, learned: dict[str, Any]) -> dict[str, Any]:
        """The parts of the distilled data that what is learned stands for."""
        return learned if self.shaping is None else self._final(self.shaping, learned, self.start.words)


def _carry_back(shaping: Shaping, gradient: dict[str, Any], learned: dict[str, Any], *used: Any) -> dict[str, Any]:
    """The gradient by what is learned, from that by what was fed."""
    return jax.vjp(lambda learned: shaping.use(learned, *used), learned)[1](gradient)[0]


def _add_axes(tree: Any, count: int) -> Any:
    """Leading axes of size 1, which a map lays side by side over devices."""
    return jax.tree.map(lambda x: x.reshape((1,) * count + x.shape), tree)


def _drop_axes(tree: Any, count: int) -> Any:
    return jax.tree.map(lambda x: x.reshape(x.shape[count:]), tree)
