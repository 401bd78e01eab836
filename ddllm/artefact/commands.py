"""What is done with a folder alone, without a configuration: `describe` tells what it is, `train_to` makes a checkpoint of it."""

import time
from collections.abc import Iterator
from os.path import expanduser
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from ddllm.artefact.base import Distilled
from ddllm.artefact.card import FIGURES, base_name, score_sentence
from ddllm.artefact.folder import FILES, load_distilled
from ddllm.artefact.rows import TEXT
from ddllm.models.words import scored_words
from ddllm.runtime.progress import say


def describe(folder: str | Path, console: Console | None = None) -> None:
    """Print what a folder is: examples, labels, recipe, base model, scores, size, and what its examples read like."""
    folder, distilled = Path(expanduser(folder)), load_distilled(folder)
    table = Table(box=SIMPLE, show_header=False, title=str(folder), title_style="bold", title_justify="left", pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts(folder, distilled):
        table.add_row(name, value)
    (console or Console(highlight=False, markup=False)).print(table, markup=False)


def facts(folder: Path, distilled: Distilled) -> Iterator[tuple[str, str]]:
    """What is to be known of a folder, as (name, value)."""
    card, data, recipe = distilled.card, distilled.data, distilled.recipe
    base, head = card.get("base_model", {}), card.get("head", {})
    yield "examples", f"{data.examples} of {data.embeddings.shape[2]} positions, {data.embeddings.shape[3]} numbers each"
    yield "labels", f"{', '.join(distilled.label_names)} ({card.get('task', {}).get('name', 'classification')}, {recipe.labels})"
    yield "base model", f"{base_name(card)}, checksum {str(base.get('fingerprint', '?'))[:12]}…"
    yield "head", f"{head.get('kind', '?')}, {head.get('start', '?')}"
    batches, passes = data.embeddings.shape[0], recipe.passes
    order = f"{batches} inner batch{'es' if batches > 1 else ''}, {passes} pass{'es' if passes > 1 else ''}, order {recipe.order}"
    yield "inner steps", f"{data.steps} ({order}), optimizer {recipe.optimizer}"
    rates = [rate for row in card.get("learning_rates", []) for rate in row]
    if rates:
        yield "learning rates", f"{min(rates):.3g} to {max(rates):.3g}, {data.rates.shape[1]} in a step"
    if data.gains is not None:
        yield "gains", f"{data.gains.shape[1]:,} for the channels of kernels, {data.gains.min():.3g} to {data.gains.max():.3g}"
    if data.word_scores is not None:
        scores, scored = data.word_scores, scored_words(data.word_scores)
        yield "word scores", f"{scored.sum():,} of {scores.shape[1]:,} words, {scores.min():.3g} to {scores.max():.3g}, {scores.shape[0]} for each"
    auxiliary = [name for name in ("attention", "features", "directions") if getattr(data, name) is not None]
    if auxiliary:
        yield "further labels", ", ".join(auxiliary)
    for score in card["scores"]:
        where = f"{score['texts']:,} test texts of {score.get('data', '?')}"
        yield score["name"], f"{FIGURES.get(score['figure'], score['figure'])} {score_sentence(score)} on {where}"
    if not card["scores"]:
        yield "scores", "none yet; --mode=evaluate measures them"
    size = sum((folder / name).stat().st_size for name in FILES if (folder / name).is_file())
    yield "size", f"{size / 1000:,.0f} kB, embeddings as {card['storage']}"
    versions = card.get("versions", {})
    yield "written by", f"ddllm {versions.get('ddllm', 'before 0.1')} in schema {card['schema']} or older" if not versions else f"ddllm {versions['ddllm']}"
    if (folder / TEXT).is_file():
        yield "readable", str(folder / TEXT)


def train_to(folder: str | Path, out: str | Path, model: str | None = None, seed: int = 0) -> Any:
    """Train on a folder and write a Hugging Face checkpoint.

    Args:
        folder: of the distilled data set.
        out: folder of the checkpoint, new, empty, or an earlier checkpoint.
        model: the base model, where it lies elsewhere than the recipe says.
        seed: of what the recipe leaves to chance.

    Returns:
        What was trained.

    Raises:
        UserError: the folder is broken, the model is not the one it was distilled for, or the checkpoint cannot be written.
    """
    import jax

    began = time.monotonic()
    trained = load_distilled(folder).train(model, seed)
    jax.block_until_ready(trained.params)
    trained.save(out)
    say(f"trained on {folder} in {time.monotonic() - began:.1f} s, reading and compiling included; the checkpoint is in {out}")
    return trained
