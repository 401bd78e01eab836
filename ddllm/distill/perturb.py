"""Perturbations of a distilled data set while it is learned, so that it does not come to depend on one exact recipe.

Drawn anew from the key of every outer step (of every head, where there are several), for the training whose gradient is taken; validations and
what is exported follow the recipe as it stands.

| perturbation | what is drawn | cost |
|---|---|---|
| `rates` | one factor for all inner rates, 2^u with u uniform in [-1, 1] | none worth measuring |
| `positions` | a tenth of the positions, which are masked; never an example's first one, which heads may read | none worth measuring |
| `order` | examples dealt into the inner batches anew in every pass, each class as often as before | the examples are gathered at every step |
| `passes` | the whole recipe, or the recipe and then once more from where it has led to | half as many inner steps again, on average |
| `examples` | the recipe, or a step for every example in the place of one for all, each at its share of the rates | up to N / 2 times the inner steps |

With the first three an outer step takes as long as without them. The last two change how many steps there are: each is a program of its own, and each, like the
recipe as it stands, is as likely as the others. The price is paid in accuracy too: what is learned serves trainings around the recipe rather than the
recipe itself, and the gradient is noisier, so that more outer steps are needed.

Perturbations begin at nothing and have their full strength after a fifth of the outer steps. While rates and gains are still rising, a training at twice
the rates breaks down easily, and its gradient, tens of times longer than others, then decides where learning goes: distillations were at chance for
hundreds of steps.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from ddllm.distill.dataset import DistilledData, Recipe, actual_rates, raw_rates
from ddllm.distill.gains import repeat_gains, same_in_all_steps

DROPPED = 0.1  # share of the positions
RISE = 0.2  # share of the outer steps in which perturbations reach their full strength
STEPS = ("passes", "examples")  # those that change how many inner steps there are
# Apart from what heads, orders and windows are drawn with, which are derived from the same key.
PERTURB, CHANGE = 2**31 - 5, 2**31 - 15


def strength_at(progress: Any) -> Any:
    """How strong perturbations are, from 0 to 1, after this share of the outer steps."""
    return jnp.clip(progress / RISE, 0.0, 1.0)


def perturb(
    data: DistilledData, recipe: Recipe, kinds: tuple[str, ...], key: jax.Array, strength: float | jax.Array = 1.0
) -> tuple[DistilledData, Recipe]:
    """The distilled data and its recipe as one outer step meets them.

    Args:
        data: the distilled data set; derivatives by its parts go through what is returned.
        recipe: its recipe.
        kinds: of "rates", "positions" and "order"; none leaves both as they are.
        key: of what is drawn; a shuffled order is drawn later, with the training's own key.
        strength: of the first two: the factor is 2^(u · strength), and as much of the tenth is masked.
    """
    rates_key, mask_key = jax.random.split(jax.random.fold_in(key, PERTURB))
    if "rates" in kinds:
        data = scale_rates(data, 2 ** (strength * jax.random.uniform(rates_key, minval=-1.0, maxval=1.0)))
    if "positions" in kinds:
        data = drop_positions(data, mask_key, strength * DROPPED)
    if "order" in kinds:
        recipe = replace(recipe, order="shuffled")
    return data, recipe


def draw_steps(kinds: tuple[str, ...], key: jax.Array, strength: float | jax.Array = 1.0) -> str:
    """Which of `STEPS` an outer step with this key meets, of those that are among the kinds; "" for the recipe as it stands.

    At a `strength` below 1 so much of the others' likelihood is left to them.
    """
    choices = ("", *(kind for kind in STEPS if kind in kinds))
    if len(choices) == 1:
        return ""
    among, whether = jax.random.split(jax.random.fold_in(key, CHANGE))
    drawn = int(jax.random.randint(among, (), 0, len(choices)))
    return choices[drawn] if float(jax.random.uniform(whether)) < float(strength) else ""


def change_steps(data: DistilledData, recipe: Recipe, kind: str) -> tuple[DistilledData, Recipe]:
    """The distilled data and its recipe with one of `STEPS`; both as they are with ""."""
    if kind == "passes":
        return twice(data), replace(recipe, passes=2 * recipe.passes)
    return (single_examples(data), replace(recipe, order="fixed")) if kind == "examples" else (data, recipe)


def scale_rates(data: DistilledData, factor: float | jax.Array) -> DistilledData:
    """All inner rates multiplied by a positive factor."""
    return data.replace(rates=raw_rates(factor * actual_rates(data)))


def drop_positions(data: DistilledData, key: jax.Array, share: float | jax.Array = DROPPED) -> DistilledData:
    """Each position but the first masked with the probability `share`; those that remain keep their numbers."""
    mask = jnp.asarray(data.mask)
    kept = jax.random.bernoulli(key, 1 - share, mask.shape).at[..., 0].set(True)
    return data.replace(mask=mask * kept)


def single_examples(data: DistilledData) -> DistilledData:
    """Inner batches of one example each, N steps in the place of one; rates are divided by N, gains and coefficients of momentum repeated."""
    count = data.embeddings.shape[1]
    parts = {name: x.reshape(-1, 1, *x.shape[2:]) for name, x in data.batches.items()}
    rates = raw_rates(jnp.repeat(actual_rates(data) / count, count, axis=0))
    momentum = None if data.momentum is None else jnp.repeat(data.momentum, count)
    return data.replace(**parts, rates=rates, order=None, momentum=momentum, gains=repeat_gains(data.gains, count))


def twice(data: DistilledData) -> DistilledData:
    """Every step a second time, after all of them."""
    names = ("rates", "momentum", "order", *(() if same_in_all_steps(data.gains) else ("gains",)))
    parts = {name: getattr(data, name) for name in names}
    return data.replace(**{name: None if x is None else jnp.concatenate([x, x]) for name, x in parts.items()})
