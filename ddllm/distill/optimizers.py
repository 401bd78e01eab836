"""Inner optimizers: the direction of an inner step, which the learned rates then scale.

A short name, or any of Optax's transformations with its arguments, in one string: "adam", "adamw(weight_decay=0.01)", "scale_by_lion(b1=0.9)". The string
is part of an exported recipe and may come from a stranger: it is parsed and never evaluated, names are looked up among Optax's factories of
transformations alone, and arguments are literals.

Directions that are signs (lion, sign_sgd, rprop) have no derivative by what they are signs of: with them rates are learned, examples are not.
"""

import ast
import inspect
from functools import cache, partial
from types import FunctionType
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ddllm.config import suggest
from ddllm.errors import UserError

SGD, LEARNED_MOMENTUM = "sgd", "learned_momentum"
# Short names with the transformation and the arguments that they stand for. Sums of past gradients are not normalised, as PyTorch's are not.
SHORT: dict[str, tuple[str, dict[str, Any]]] = {
    "momentum": ("trace", {"decay": 0.9}),
    "nesterov": ("trace", {"decay": 0.9, "nesterov": True}),
    "adam": ("scale_by_adam", {}),
}
# Under the square root of Adam's kind, so that its derivative is finite where a gradient is zero.
EPS_ROOT = 1e-12


def make_optimizer(text: str, where: str = "the inner optimizer") -> optax.GradientTransformationExtraArgs | None:
    """The transformation that turns a gradient into the direction of a step, to be scaled by the rates and subtracted.

    Args:
        text: "sgd", "momentum", "nesterov", "adam", "learned_momentum" (see `learned_trace`), or the name of one of Optax's transformations, with or without
            arguments. A whole optimizer, one that takes a learning rate, gets the rate 1 and its sign is turned, so that all it does besides
            (AdamW's decay of the weights) is scaled by the learned rates as well.
        where: subject of the error's sentence.

    Returns:
        The transformation; None for plain gradient descent.

    Raises:
        UserError: the text cannot be meant: an unknown name or argument, an argument that is no literal, a transformation that needs more than gradients
            and parameters.
    """
    name, arguments = _parse(text, where)
    if arguments is None and name == SGD:
        return None
    if name == LEARNED_MOMENTUM:
        if arguments is not None:
            raise UserError(f"{where} is {text!r}, but {name} takes no arguments; its coefficients are learned.")
        return learned_trace()
    real, preset = SHORT.get(name, (name, {}))
    factories = _factories()
    if real not in factories:
        known = (SGD, *SHORT, LEARNED_MOMENTUM, *factories)
        raise UserError(
            f"{where} is {text!r}{suggest(name, known)}; it must be one of {', '.join(known[: len(SHORT) + 2])}, or one of Optax's transformations, as in "
            "adamw(weight_decay=0.01)."
        )
    parameters = inspect.signature(factories[real]).parameters
    arguments = preset | (arguments or {})
    for argument in arguments:
        if argument == "learning_rate":
            raise UserError(f"{where} is {text!r}, but rates are learned, from config.distill.initial_rate on; leave learning_rate out.")
        if argument not in parameters:
            raise UserError(f"{where} is {text!r}, but {name} has no argument {argument}{suggest(argument, list(parameters))}.")
    if "eps_root" in parameters and parameters["eps_root"].default == 0.0:
        arguments = {"eps_root": EPS_ROOT} | arguments
    whole = "learning_rate" in parameters
    if whole:
        arguments["learning_rate"] = 1.0
    missing = [key for key, parameter in parameters.items() if parameter.default is parameter.empty and key not in arguments]
    if missing:
        raise UserError(f"{where} is {text!r}, but {name} needs {' and '.join(missing)}, as in {name}({missing[0]}=1.0).")
    try:
        transform = factories[real](**arguments)
        transform = optax.with_extra_args_support(optax.chain(transform, optax.scale(-1.0)) if whole else transform)
        _try_out(transform)
    except Exception as error:  # Whatever a factory of Optax's raises when it gets nonsense.
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise UserError(f"{where} is {text!r}, which cannot serve as an inner optimizer: {reason}.") from None
    return transform


def learned_trace() -> optax.GradientTransformationExtraArgs:
    """Momentum whose coefficient is given anew at each step: m ← μ_t m + g, as `optax.trace` with a decay that is data.

    The coefficients are learned with the distilled data; the first one meets an empty memory and gets no gradient.
    """

    def init(params: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, params)

    def update(updates: Any, state: Any, params: Any = None, *, momentum: Any = None, **_: Any) -> tuple[Any, Any]:
        if momentum is None:
            raise ValueError("learned momentum needs coefficients in the data")
        state = jax.tree.map(lambda memory, gradient: momentum * memory + gradient, state, updates)
        return state, state

    return optax.GradientTransformationExtraArgs(init, update)


def check_derivative(text: str, where: str = "the inner optimizer") -> None:
    """Differentiate through three steps on a handful of numbers, some of whose gradients are zero, as an encoder's always are somewhere.

    Raises:
        UserError: as `make_optimizer`; or the derivative is not a finite number, as with a bare square root (Adam's with eps_root=0).
    """
    transform = make_optimizer(text, where)
    if transform is None or text == LEARNED_MOMENTUM:
        return
    params = {"kernel": jnp.asarray([[0.3, -0.2], [0.1, 0.4], [0.2, 0.1]]), "bias": jnp.zeros(2)}

    def loss(params: Any, inputs: jax.Array) -> jax.Array:
        outputs = jnp.tanh(jnp.tensordot(inputs, params["kernel"], 1)) + params["bias"][None]
        return jnp.sum(jnp.square(outputs[:, 0] - 1))

    def trained(inputs: jax.Array, rate: float) -> jax.Array:
        changed, state = params, transform.init(params)
        for _ in range(3):
            direction, state = transform.update(jax.grad(loss)(changed, inputs), state, changed)
            changed = jax.tree.map(lambda x, d: x - rate * d, changed, direction)
        return optax.tree.norm(changed, squared=True)

    gradient = jax.jit(jax.grad(trained, (0, 1)))(jnp.asarray([[1.0, -1.0, 0.0], [0.5, 0.3, 0.0]]), 0.01)
    if not all(bool(jnp.isfinite(part).all()) for part in gradient):
        raise UserError(f"{where} is {text!r}, whose derivative is not finite where a gradient or a parameter is zero; choose another one.")


def _parse(text: str, where: str) -> tuple[str, dict[str, Any] | None]:
    """Name and arguments of "name" or "name(key=literal, …)"; None for no parentheses."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        node = None
    if isinstance(node, ast.Name):
        return node.id, None
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)) or node.args or not all(word.arg for word in node.keywords):
        raise UserError(f"{where} is {text!r}, but must be a name, with or without named arguments, as in adamw(weight_decay=0.01).")
    arguments = {}
    for word in node.keywords:
        try:
            arguments[str(word.arg)] = ast.literal_eval(word.value)
        except (ValueError, RecursionError, MemoryError):
            raise UserError(f"{where} is {text!r}, but {word.arg} is no plain number, truth value or string.") from None
    return node.func.id, arguments


@cache
def _factories() -> dict[str, Any]:
    """Optax's public functions that give a transformation out of numbers alone, by name."""
    found = {}
    for name, factory in sorted(vars(optax).items()):
        if name.startswith("_") or not isinstance(factory, FunctionType | partial):
            continue
        signature = inspect.signature(factory)
        gives = getattr(signature.return_annotation, "__name__", "") in ("GradientTransformation", "GradientTransformationExtraArgs")
        needed = [p for p in signature.parameters.values() if p.default is p.empty and p.name != "learning_rate"]
        # What wraps other transformations or functions cannot be written with literals.
        numbers = all(parameter.annotation in (jax.typing.ArrayLike, int, float, bool) for parameter in needed)
        # The last part of an optimizer already has its sign and its rate.
        last = name.startswith("scale_by_") and "learning_rate" in signature.parameters
        if gives and numbers and not last:
            found[name] = factory
    return found


def _try_out(transform: optax.GradientTransformationExtraArgs) -> None:
    """Trace two steps of a scan, so that what asks for more than gradients, or changes its state's types, is found out before a run."""

    def run(params: Any) -> Any:
        def step(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
            params, state = carry
            direction, state = transform.update(params, state, params)
            return (jax.tree.map(jnp.subtract, params, direction), state), None

        return jax.lax.scan(step, (params, transform.init(params)), None, length=2)[0][0]

    jax.eval_shape(run, {"kernel": jax.ShapeDtypeStruct((2, 3), jnp.float32), "bias": jax.ShapeDtypeStruct((3,), jnp.float32)})
