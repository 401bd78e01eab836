"""The contestants: each builds one outer step's gradient as a function that gives (loss, gradients), ready to be compiled and timed.

`ours` is the outer step that distillation runs; `pytorch` is double backward through `torch.func.functional_call`; `torchopt` the same with
TorchOpt's functional SGD; `limit` the matrix products alone. All compute where JAX does, with products as exact as they are told (see `model.products`).
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks.workloads import CLASSES, Problem

DOUBLE = "float64"


class Step(NamedTuple):
    """An outer step.

    Attributes:
        run: gives its loss and gradients.
        compile: does what has to be done once, before the first; gives the bytes that a step is expected to need, or None.
    """

    run: Callable[[], tuple[float, dict[str, np.ndarray]]]
    compile: Callable[[], int | None] = lambda: None


def shards_of(method: str) -> int:
    """Devices that share the parameters in one of our methods."""
    return int(method.partition("@")[2] or 1)


def ours(problem: Problem, method: str, products: str) -> Step:
    """ddllm's outer step with one of its gradient methods.

    "checkpointed-4" has four segments, "mixed/0" takes all texts at once, "mixed+offload" keeps what it keeps in the host's memory, and of "mixed@2" two
    devices share the parameters. With `DOUBLE` as products, everything is float64, which JAX has to be told to compute in.
    """
    import jax
    import jax.numpy as jnp
    import optax

    from ddllm.data.batches import Batch
    from ddllm.distill.dataset import DistilledData, Recipe, learned_parts
    from ddllm.distill.gradients import METHODS
    from ddllm.distill.memory import predict_memory
    from ddllm.distill.outer_step import OuterStep
    from ddllm.models.heads import HeadConfig
    from ddllm.models.learner import Learner, Start
    from ddllm.models.parts import choose_tokens
    from ddllm.runtime.mesh import arrange

    shards, numbers = shards_of(method), np.float64 if products == DOUBLE else np.float32
    name, _, offload = method.partition("@")[0].partition("+")
    name, _, tokens = name.partition("/")
    name, _, segments = name.partition("-")
    problem = problem.astype(numbers)
    mask = np.ones(problem.embeddings.shape[:3], numbers)
    data = DistilledData(problem.embeddings, mask, problem.labels, problem.rates)
    recipe = Recipe("unrestricted")
    learner = Learner(replace(problem.encoder, products="float32" if products == DOUBLE else products), HeadConfig("mean", CLASSES), "fixed")
    start = Start(jax.tree.map(jnp.asarray, problem.body), jnp.asarray(problem.words))
    mesh = arrange(jax.devices()[:shards], model=shards)
    at_once = int(tokens) if tokens else choose_tokens(0, jax.default_backend())
    differentiation = METHODS[name](bool(offload), at_once)
    step = OuterStep(learner, recipe, start, data, differentiation, optax.sgd(1.0), mesh, int(segments or 1))
    learned = jax.device_put(learned_parts(data, recipe), step.everywhere)
    batch = Batch(problem.ids, np.ones(problem.ids.shape, numbers), problem.targets, np.ones(len(problem.ids), numbers))
    key = jax.random.key(0)

    def run() -> tuple[float, dict[str, np.ndarray]]:
        loss, _, gradient = step.gradient(learned, batch, key)
        return float(loss), {part: np.asarray(value) for part, value in gradient.items()}

    # Asking what it needs compiles what runs, but for float32 alone.
    return Step(run) if products == DOUBLE else Step(run, lambda: predict_memory(step, learned, *problem.ids.shape))


def pytorch(problem: Problem, method: str, products: str) -> Step:
    """PyTorch's double backward; method is "double-backward", or "torchopt" for TorchOpt's SGD. Rounds to bfloat16 by `torch.autocast`."""
    import jax
    import torch
    from torch.func import functional_call
    from transformers import BertConfig, BertModel

    from ddllm.models.families import body_leaves, get_leaf
    from ddllm.models.heads import HeadConfig
    from ddllm.models.learner import Learner

    device = torch.device("cuda" if jax.default_backend() == "gpu" else "cpu")
    torch.set_float32_matmul_precision("highest" if products == "float32" else "high")
    rounded = torch.autocast(device.type, torch.bfloat16) if products == "bfloat16" else nullcontext()

    def tensor(array: Any) -> Any:
        return torch.from_numpy(np.array(array)).to(device)

    encoder = problem.encoder
    config = BertConfig(
        vocab_size=encoder.vocabulary,
        hidden_size=encoder.hidden,
        num_hidden_layers=encoder.layers,
        num_attention_heads=encoder.heads,
        intermediate_size=encoder.feed_forward,
        max_position_embeddings=encoder.positions,
        type_vocab_size=encoder.token_types,
        layer_norm_eps=encoder.norm_epsilon,
    )
    config._attn_implementation = "eager"  # the fused kernels cannot be differentiated twice
    model = BertModel(config, add_pooling_layer=False).eval()
    weights = {}
    for leaf in body_leaves(encoder):
        tensors = leaf.split(np.asarray(get_leaf(problem.body, leaf.path)))
        weights |= {name: torch.from_numpy(tensor) for name, tensor in zip(leaf.names, tensors, strict=True)}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or any("word_embeddings" not in name for name in missing):
        raise ValueError(f"weights do not fit: {missing} are missing, {unexpected} unknown")
    torch.nn.Module.to(model, device)
    body = {f"body.{name}": value.detach().requires_grad_() for name, value in model.named_parameters() if "word_embeddings" not in name}
    head = Learner(encoder, HeadConfig("mean", CLASSES), "fixed").init_head()["out"]
    start = body | {
        "head.kernel": tensor(head["kernel"]).requires_grad_(),
        "head.bias": tensor(head["bias"]).requires_grad_(),
    }

    def group(name: str) -> int:
        if name.startswith("head."):
            return encoder.layers + 1
        return 1 + int(name.split("encoder.layer.")[1].split(".")[0]) if "encoder.layer." in name else 0

    groups = {name: group(name) for name in start}
    words, ids, targets = tensor(problem.words), tensor(problem.ids).long(), tensor(problem.targets).long()
    learned = {part: tensor(getattr(problem, part)).requires_grad_() for part in ("embeddings", "labels", "rates")}

    def logits(params: dict[str, Any], embeddings: Any) -> Any:
        tensors = {name.removeprefix("body."): value for name, value in params.items() if name.startswith("body.")}
        with rounded:
            hidden = functional_call(model, tensors, kwargs={"inputs_embeds": embeddings}).last_hidden_state
        return hidden.float().mean(dim=1) @ params["head.kernel"] + params["head.bias"]

    def scaled_gradients(params: dict[str, Any], step: int, rates: Any) -> list[Any]:
        outputs = torch.log_softmax(logits(params, learned["embeddings"][step]), dim=-1)
        loss = -(learned["labels"][step] * outputs).sum(dim=-1).mean()
        gradients = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        return [gradient * rates[step, groups[name]] for name, gradient in zip(params, gradients, strict=True)]

    def by_hand(params: dict[str, Any], changes: list[Any]) -> dict[str, Any]:
        return {name: value - change for (name, value), change in zip(params.items(), changes, strict=True)}

    if method == "torchopt":
        import torchopt  # pyright: ignore[reportMissingImports]  requirements-bench.txt has it

        optimizer = torchopt.sgd(lr=1.0)
        memory = optimizer.init(tuple(start.values()))

        def update(params: dict[str, Any], changes: list[Any]) -> dict[str, Any]:
            nonlocal memory
            updates, memory = optimizer.update(tuple(changes), memory, inplace=False)
            return dict(zip(params, torchopt.apply_updates(tuple(params.values()), updates, inplace=False), strict=True))
    else:
        update = by_hand

    def run() -> tuple[float, dict[str, np.ndarray]]:
        rates, params = torch.nn.functional.softplus(learned["rates"]), start
        for step in range(len(problem.embeddings)):
            params = update(params, scaled_gradients(params, step, rates))
        loss = torch.nn.functional.cross_entropy(logits(params, words[ids]), targets)
        gradients = torch.autograd.grad(loss, list(learned.values()))
        return float(loss.detach()), {part: gradient.cpu().numpy() for part, gradient in zip(learned, gradients, strict=True)}

    return Step(run)


def limit(problem: Problem, method: str, products: str) -> Step:
    """The matrix products of an outer step and nothing else, multiplied by XLA: nine passes for each inner step, three for the real batch.

    A pass is one product with every kernel of the encoder. An inner gradient has three (forward, by the input, by the kernel), its derivative six.
    """
    del method
    import jax
    import jax.numpy as jnp

    from ddllm.models.products import multiply

    rng = np.random.default_rng(0)
    layers = problem.body["layers"].values()
    kernels = [layer[room][part]["kernel"] for layer in layers for room, part in PRODUCTS]
    kernels = [jnp.asarray(kernel) for kernel in kernels]

    def rows(count: int) -> dict[int, jax.Array]:
        return {size: jnp.asarray(rng.standard_normal((count, size)), jnp.float32) for size in {n for k in kernels for n in k.shape}}

    @jax.jit
    def passes(kernels: list[jax.Array], rows: dict[int, jax.Array]) -> list[jax.Array]:
        made = []
        for kernel in kernels:
            # The factor keeps equal shapes from being multiplied once only.
            product, pull = jax.vjp(partial(multiply, products=products), rows[kernel.shape[0]] * kernel[0, 0], kernel)
            made += [product, *pull(rows[kernel.shape[1]])]
        return made

    steps, examples, length, _ = problem.embeddings.shape
    inner, outer = rows(examples * length), rows(problem.ids.size)

    def run() -> tuple[float, dict[str, np.ndarray]]:
        for _ in range(3 * steps):
            jax.block_until_ready(passes(kernels, inner))
        jax.block_until_ready(passes(kernels, outer))
        return 0.0, {}

    return Step(run)


PRODUCTS = (("attention", "qkv"), ("attention", "out"), ("feed_forward", "up"), ("feed_forward", "down"))
