"""One outer step: train on the distilled data, measure on a real batch, move the distilled data down the meta-gradient.

The gradient is three compiled programs, so that only the small middle one is compiled again for each padded length of real texts:

    begin      (learned, head key)             ─► trained parameters, pullback
    measure    (trained parameters, batch)     ─► loss, ∂loss/∂parameters, each device with its own share of the batch
    pull       (pullback, ∂loss/∂parameters)   ─► ∂loss/∂learned, averaged over devices

`gradient` runs the three; a fourth, small one then moves the state.

What is averaged over devices is the gradient of the small distilled data set alone: parameter-sized arrays never travel.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddllm.data.batches import Batch
from ddllm.distill.dataset import DistilledData, Recipe
from ddllm.distill.gradients import Method
from ddllm.distill.inner_loop import train
from ddllm.distill.truncation import Truncation
from ddllm.models.encoder import Tree
from ddllm.models.learner import Learner, Start
from ddllm.models.scoring import real_loss
from ddllm.runtime.devices import place
from ddllm.runtime.loop import no_best

EACH = PartitionSpec("data")
ALL = PartitionSpec()


class OuterState(NamedTuple):
    """Everything an outer loop carries: arrays only, so that it can be saved as it is.

    Attributes:
        step: outer steps done.
        learned: the parts of the distilled data that are learned.
        average: their running average (equal to `learned` where averaging is off).
        optimizer: state of the outer optimizer.
        best: {"learned", "accuracy", "step"} of the best validation so far; accuracy is -1 before the first.
    """

    step: jax.Array
    learned: dict[str, Any]
    average: dict[str, Any]
    optimizer: Any
    best: dict[str, Any]


def initial_state(learned: dict[str, Any], optimizer: optax.GradientTransformation, sharding: NamedSharding) -> OuterState:
    """The state before the first outer step, placed on every device."""
    learned = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), learned)
    state = OuterState(jnp.asarray(0, jnp.int32), learned, learned, optimizer.init(learned), no_best({"learned": learned}))
    return place(state, sharding)


class OuterStep:
    """The compiled outer step for one distilled data set, on the devices of one mesh.

    Args:
        learner: encoder and head.
        recipe: constants of the inner loop.
        start: pretrained constants.
        data: gives the parts that are not learned (mask, hard labels).
        method: of differentiation through the inner loop.
        optimizer: of the outer loop.
        mesh: one axis called "data", over which real batches are split; their size must be a multiple of its.
        segments: see `unroll`.
        average: decay of the running average, 0 for none.
        truncation: of the gradient alone; `train` always runs all inner steps.

    Attributes:
        begin, measure, pull: the compiled programs of the gradient, as the module's docstring says.
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
    ) -> None:
        everywhere = NamedSharding(mesh, ALL)
        self.learner, self.recipe, self.optimizer = learner, recipe, optimizer
        self.everywhere, self.batches = everywhere, NamedSharding(mesh, EACH)
        self.start = place(start, everywhere)
        self.fixed = place(data, everywhere)

        def trained(learned: dict[str, Any], fixed: DistilledData, start: Start, key: jax.Array, *how: Any) -> Tree:
            return train(learner, recipe, start, fixed.replace(**learned), key, method, *how)

        def begin(learned: dict[str, Any], fixed: DistilledData, start: Start, key: jax.Array) -> tuple[Tree, Any]:
            return jax.vjp(lambda parts: trained(parts, fixed, start, key, segments, truncation), learned)

        def measure(trained: Tree, words: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array, Tree]:
            (loss, correct), cotangent = jax.value_and_grad(real_loss, has_aux=True)(trained, learner, words, batch)
            means = jax.lax.pmean((loss, correct), "data")
            return *means, jax.tree.map(lambda x: x[None], cotangent)

        def pull(pullback: Any, cotangent: Tree) -> dict[str, Any]:
            return jax.lax.pmean(pullback(jax.tree.map(lambda x: x[0], cotangent))[0], "data")

        def move(state: OuterState, gradient: dict[str, Any]) -> tuple[OuterState, jax.Array]:
            updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.learned)
            learned = jax.tree.map(jnp.add, state.learned, updates)
            # A short memory at first: the average must not remember the start for long.
            decay = jnp.minimum(average, (1.0 + state.step) / (10.0 + state.step)) if average else 0.0
            mean = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.average, learned)
            new = OuterState(state.step + 1, learned, mean, optimizer_state, state.best)
            return new, optax.tree.norm(gradient)

        self._train = jax.jit(trained)
        # Every device unrolls the same inner loop, inside the same kind of map that pulls back, since a pullback can only be used where it was made.
        self.begin = jax.jit(jax.shard_map(begin, mesh=mesh, in_specs=ALL, out_specs=ALL, check_vma=False))
        self.measure = jax.jit(jax.shard_map(measure, mesh=mesh, in_specs=(ALL, ALL, EACH), out_specs=(ALL, ALL, EACH), check_vma=False))
        self.pull = jax.jit(jax.shard_map(pull, mesh=mesh, in_specs=(ALL, EACH), out_specs=ALL, check_vma=False))
        self._move = jax.jit(move)

    def __call__(self, state: OuterState, batch: Batch, key: jax.Array) -> tuple[OuterState, dict[str, jax.Array]]:
        """Do one outer step.

        Args:
            state: before the step.
            batch: real texts; its size is a multiple of the mesh's.
            key: of a redrawn head, a shuffled order, a random window.

        Returns:
            The state after it, and {"loss", "accuracy" on the real batch, "gradient_norm"} still on the device.
        """
        loss, accuracy, gradient = self.gradient(state.learned, batch, key)
        state, norm = self._move(state, gradient)
        return state, {"loss": loss, "accuracy": accuracy, "gradient_norm": norm}

    def gradient(self, learned: dict[str, Any], batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array, dict[str, Any]]:
        """Loss and accuracy on the real batch after training on the distilled data, and the loss's gradient by what is learned."""
        trained, pullback = self.begin(learned, self.fixed, self.start, key)
        loss, accuracy, cotangent = self.measure(trained, self.start.words, place(batch, self.batches))
        return loss, accuracy, self.pull(pullback, cotangent)

    def train(self, learned: dict[str, Any], key: jax.Array) -> Tree:
        """Parameters trained on the distilled data as learned so far."""
        return self._train(learned, self.fixed, self.start, key)
