"""Model augmentation: outer steps that start from different bodies, so that a data set does not come to depend on one.

The bodies are the pretrained one, other checkpoints of its shape (config.distill.bodies) and partly fine-tuned ones that are made here from the pretrained
one (config.distill.pool). Each outer step draws one of them (`OuterStep.draw_start`) and learns from what the distilled data does to it.
Validation, evaluation and the exported recipe know the pretrained body alone. What bodies cost: one more copy of the parameters on each device.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddllm.data.tokens import load_tokenizer
from ddllm.errors import UserError
from ddllm.evaluate.finetune import finetune
from ddllm.models.learner import Start
from ddllm.models.pretrained import Pretrained, load_pretrained
from ddllm.prepare import Prepared
from ddllm.runtime.checkpoints import Checkpoints
from ddllm.runtime.metrics import Metrics, read_metrics
from ddllm.runtime.processes import check_same

# Seeds of fine-tuned bodies, far from those of the stage that fine-tunes.
SEEDS = 10_000
STAGE = "body"


def gather_bodies(prepared: Prepared, folder: Path, open_metrics: Callable[[], Metrics]) -> tuple[Start, ...]:
    """All bodies beside the pretrained one that config.distill asks for, in host memory.

    Args:
        prepared: data, model and configuration.
        folder: where fine-tuned ones are kept; what is there is not made again.
        open_metrics: opens where the figures of their fine-tuning are written.

    Raises:
        UserError: a checkpoint cannot be read, or is of another shape or tokenizer than the pretrained one.
        Diverged: a fine-tuning came to values that are not finite.
    """
    config = prepared.config.distill
    others = [_load_body(prepared, name) for name in config.bodies]
    return *others, *(_finetuned_body(prepared, number, folder, open_metrics) for number in range(config.pool))


def _load_body(prepared: Prepared, name: str) -> Start:
    other = load_pretrained(name)
    check_shape(prepared.pretrained, other)
    check_same(f"the pretrained model {name}", other.fingerprint)
    # A tree of the same structure, so that the compiled programs take it too.
    pooler = prepared.pretrained.pooler and (other.pooler or prepared.pretrained.pooler)
    return Start(other.body, other.words, pooler)  # pyright: ignore[reportArgumentType]  in host memory


def check_shape(pretrained: Pretrained, other: Pretrained) -> None:
    """Raise `UserError` unless the other checkpoint has the constants and the vocabulary of the pretrained one."""
    ours, theirs = asdict(pretrained.config), asdict(other.config)
    different = [f"{key} {theirs[key]} instead of {ours[key]}" for key in ours if ours[key] != theirs[key]]
    if not different and load_tokenizer(pretrained.folder).get_vocab() != load_tokenizer(other.folder).get_vocab():
        different = ["another vocabulary in its tokenizer"]
    if different:
        raise UserError(
            f"config.distill.bodies has {other.name}, which cannot stand in for {pretrained.name}: it has {', '.join(different)}; "
            "give checkpoints of the same architecture, size and vocabulary."
        )


def pool_steps(most: int, pool: int, number: int) -> int:
    """Steps of the fine-tuning of body `number` of a pool."""
    return max(round(most * (number + 1) / pool), 1)


def pool_seconds(metrics: Metrics, pool: int) -> float:
    """What fine-tuning the bodies of a pool took, by the figures that it wrote."""
    lines = read_metrics(metrics.path)
    return sum(max((line["elapsed"] for line in lines if line["stage"] == f"{STAGE}-{number}"), default=0.0) for number in range(pool))


def _finetuned_body(prepared: Prepared, number: int, folder: Path, open_metrics: Callable[[], Metrics]) -> Start:
    """A body fine-tuned with a seed of its own: the first of `pool` for the least, the last for all of config.distill.pool_steps."""
    config = prepared.config.copy_and_resolve_references()
    with config.unlocked():
        texts, steps = len(prepared.tokens.train), pool_steps(config.distill.pool_steps, config.distill.pool, number)
        # Words stay, since the distilled embeddings lie among those of the pretrained model.
        config.finetune.update({"epochs": steps / -(-texts // config.finetune.batch_size), "train_words": False, "validations": 1})
    checkpoints, metrics = Checkpoints(folder / str(number), keep=1), open_metrics()
    try:
        state, _ = finetune(replace(prepared, config=config), config.seed + SEEDS + number, checkpoints, metrics, f"{STAGE}-{number}")
    finally:
        checkpoints.close()
        metrics.close()
    body: Any = jax.tree.map(np.asarray, state.params["body"])
    return Start(body, prepared.start.words, prepared.start.pooler)
