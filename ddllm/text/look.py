"""Something to look at: distilled examples as their nearest tokens, beside the real texts nearest to them.

`look_at` gives plain values, which are kept as look.json for the page; `print_look` and `markdown_look` show them in the terminal and as look.md.

    {"tokens": k, "total", "shown", "low", "high", "labels": […], "groups": […], "examples": [{"number", "batch", "label", "group",
     "values": [{"name", "value"}], "text", "positions": [{"tokens": […], "cosines": […], "near", "length"}],
     "nearest": [{"text", "label", "cosine"}]}], "beside": [{"name", "learned", "table"}], "words": [{"name", "with", "against"}], "map": {…} or null}
"""

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ddllm.artefact.base import Distilled
from ddllm.artefact.rows import PAIRED, read_tokens
from ddllm.data.corpus import load_corpus
from ddllm.data.splits import Split
from ddllm.data.tokens import load_tokenizer
from ddllm.distill.dataset import DistilledData, group_names
from ddllm.distill.word_scores import with_moves
from ddllm.models.task import Task
from ddllm.models.tasks import Regression
from ddllm.prepare import Prepared
from ddllm.runtime.progress import Progress
from ddllm.select.nearest import distilled_features, nearest_rows, principal_plane
from ddllm.text.look_words import as_line, look_at_words
from ddllm.text.projection import index_table, nearest
from ddllm.text.vocabulary import allowed_tokens, compare_with_table, mean_cosine

NEAREST = {"median": "cosine", "least": "cosine_least", "greatest": "cosine_greatest"}
PLAIN_TOKENS, PLAIN_TEXT = 2, 160  # tokens of a position, and characters of a real text, in the terminal


def look_at(prepared: Prepared, distilled: Distilled) -> dict[str, Any]:
    """What there is to see of a distilled data set.

    Args:
        prepared: data, model and configuration, whose section `report` says how much is shown.
        distilled: the distilled data set, for this model and these classes.

    Returns:
        The plain values above. Nearest tokens are those of the word table by cosine; nearest real texts are training texts by the cosine of features.

    Raises:
        UserError: more tokens are asked for than the vocabulary has.
    """
    config, data = prepared.config.report, distilled.data
    total = data.examples
    shown = min(config.examples or total, total)
    features_nD, tokenizer = prepared.features, load_tokenizer(prepared.pretrained.folder)
    with Progress(3, "look: features of the distilled examples") as progress:
        features_ED = distilled_features(prepared.learner.encoder, prepared.start, data)
        progress.update(1)
        rows_Ek, cosines_Ek = nearest_rows(features_ED[:shown], features_nD, config.texts)
        progress.update(2)
        positions, beside = look_at_positions(prepared, tokenizer, data, shown)
        progress.update(3)
    corpus = load_corpus(prepared.config.data).train
    values_EC = label_values(distilled)
    groups_E = group_of(prepared.learner.task, values_EC)
    tops = [position["cosines"][0] for example in positions for position in example["positions"]]
    low, high = min(tops), max(tops)
    examples = []
    for number, (example, rows_k, cosines_k) in enumerate(zip(positions, rows_Ek, cosines_Ek, strict=True)):
        for position in example["positions"]:
            position["near"] = (position["cosines"][0] - low) / max(high - low, 1e-9)
        values = [{"name": name, "value": float(value)} for name, value in zip(distilled.label_names, values_EC[number], strict=True)]
        real = [
            {"text": text_of(corpus, row), "label": tell_label(prepared, row), "cosine": float(cosine)}
            for row, cosine in zip(rows_k.tolist(), cosines_k, strict=True)
        ]
        label = tell_values(prepared.learner.task, values_EC[number], distilled.label_names)
        facts = {"number": number + 1, "batch": number // data.embeddings.shape[1] + 1, "label": label, "group": int(groups_E[number])}
        examples.append({**facts, "values": values, **example, "nearest": real})
    chart = make_map(prepared, features_nD, features_ED, groups_E) if config.map_texts else None
    labels = list(dict.fromkeys(example["label"] for example in examples))
    words = look_at_words(distilled, partial(tell_token, tokenizer))
    facts = {"tokens": config.tokens, "total": total, "shown": shown, "low": low, "high": high, "labels": labels}
    return {**facts, "groups": rate_groups(prepared, data), "examples": examples, "beside": beside, "words": words, "map": chart}


def look_at_positions(prepared: Prepared, tokenizer: Any, data: Any, shown: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Of the first examples {"text", "positions"}: nearest tokens of each used position, and its embedding's length as a multiple of the nearest token's; and
    of all these positions together `beside_tables`."""
    words_VD = np.asarray(prepared.pretrained.words)
    hidden, k = words_VD.shape[1], prepared.config.report.tokens
    embeddings_ETD = np.asarray(data.embeddings).reshape(-1, data.embeddings.shape[2], hidden)[:shown]
    mask_ET = np.asarray(data.mask).reshape(-1, data.mask.shape[2])[:shown] > 0
    # Special tokens are what the first and last positions begin as, and often stay.
    allowed_V = allowed_tokens(tokenizer, len(words_VD), special=True)
    found = nearest(embeddings_ETD[mask_ET], index_table(words_VD, allowed=allowed_V), min(k, int(allowed_V.sum())))
    ids_Pk, cosines_Pk = np.asarray(found.ids), np.asarray(found.scores)
    names = {index: tell_token(tokenizer, index) for index in np.unique(ids_Pk).tolist()}
    lengths_P = np.linalg.norm(embeddings_ETD[mask_ET], axis=1) / np.maximum(np.linalg.norm(words_VD[ids_Pk[:, 0]], axis=1), 1e-12)
    examples, ends = [], np.concatenate([[0], np.cumsum(mask_ET.sum(axis=1))])
    for first, last in zip(ends[:-1], ends[1:], strict=True):
        positions = [
            {
                "tokens": [names[index] for index in ids_Pk[place].tolist()],
                "cosines": [round(float(cosine), 4) for cosine in cosines_Pk[place]],
                "length": round(float(lengths_P[place]), 4),
            }
            for place in range(first, last)
        ]
        examples.append({"text": read_tokens(tokenizer, ids_Pk[first:last, 0]), "positions": positions})
    return examples, beside_tables(prepared, embeddings_ETD[mask_ET], np.nonzero(mask_ET)[1], ids_Pk[:, 0], cosines_Pk[:, 0])


def beside_tables(
    prepared: Prepared, learned_PD: np.ndarray, places_P: np.ndarray, ids_P: np.ndarray, cosines_P: np.ndarray
) -> list[dict[str, Any]]:
    """What was learned beside what the model's tables hold: {"name", "learned", "table"}.

    Args:
        prepared: data and model.
        learned_PD: embeddings of the used positions.
        places_P: of each in its example.
        ids_P, cosines_P: the nearest token of each, whose row is what stands beside it where rows of other tables are compared.
    """
    words_VD, pretrained = np.asarray(prepared.pretrained.words), prepared.pretrained
    figures = compare_with_table(learned_PD, np.ones(len(learned_PD)), words_VD, cosines_P)
    found = [("length, median (beside it the whole word table's)", figures["norm"], figures["table_norm"])]
    found += [(f"cosine with the nearest token, {name}", figures[key], None) for name, key in NEAREST.items()]
    tables = pretrained.body["embeddings"]
    added = {"its position's row": np.asarray(tables["position"])[pretrained.config.position_offset + places_P]}
    types_YD = np.asarray(tables["token_type"]) if pretrained.config.token_types else ()
    added |= {f"row {row} of the token types": np.broadcast_to(type_D, learned_PD.shape) for row, type_D in enumerate(types_YD)}
    for name, rows_PD in added.items():
        found.append((f"cosine with {name}, mean", mean_cosine(learned_PD, rows_PD), mean_cosine(words_VD[ids_P], rows_PD)))
    return [{"name": name, "learned": learned, "table": table} for name, learned, table in found]


def tell_token(tokenizer: Any, index: int) -> str:
    """A token as a person reads it: a space before a byte-level one becomes visible, and one that stands for nothing readable is given as it is stored."""
    raw = str(tokenizer.convert_ids_to_tokens(index))
    piece = tokenizer.decode([index])
    if not piece.strip() or "�" in piece:
        return raw
    return ("␣" if piece[0] == " " else "") + piece.strip()


def label_values(distilled: Distilled) -> np.ndarray:
    """Labels [E, C] as the inner loss takes them: probabilities of soft labels, numbers as they are stored otherwise; of a regression in the labels' units."""
    from ddllm.models.tasks import read_task

    labels = jnp.asarray(distilled.data.labels).reshape(-1, distilled.data.labels.shape[-1])
    task = read_task(distilled.card)
    if isinstance(task, Regression):
        return np.asarray(labels) * task.deviation + task.mean
    return np.asarray(task.stored_targets(labels, distilled.recipe.labels))


def group_of(task: Task, values_EC: np.ndarray) -> np.ndarray:
    """The class [E] that each example speaks for most; 0 where texts have no classes."""
    return values_EC.argmax(axis=1) if task.one_class else np.zeros(len(values_EC), np.int64)


def tell_values(task: Task, values_C: np.ndarray, names: tuple[str, ...]) -> str:
    """The label in a word."""
    if isinstance(task, Regression):
        return f"{values_C[0]:.3g}"
    if task.one_class:
        return names[int(values_C.argmax())]
    return ", ".join(name for name, value in zip(names, values_C, strict=True) if value > 0.5) or "none"


def tell_label(prepared: Prepared, row: int) -> str:
    """The label of a training text in a word."""
    tokens, task = prepared.tokens, prepared.learner.task
    label = tokens.train.labels[row]
    return tokens.label_names[int(label)] if task.one_class else tell_values(task, np.atleast_1d(label), tokens.label_names)


def text_of(split: Split, row: int) -> str:
    """A text as it was read, or both of a pair."""
    return split.texts[row] + (PAIRED + split.pairs[row] if split.pairs is not None else "")


def make_map(prepared: Prepared, features_nD: np.ndarray, features_ED: np.ndarray, groups_E: np.ndarray) -> dict[str, Any]:
    """A random part of the training texts and all distilled examples in the plane of the former's principal components, for `draw_map`."""
    task, tokens, seed = prepared.learner.task, prepared.tokens, prepared.config.seed
    rows = np.sort(np.random.default_rng([seed, 41]).permutation(len(features_nD))[: prepared.config.report.map_texts])
    labels_n = tokens.train.labels[rows] if task.one_class else np.zeros(len(rows), np.int64)
    real_n2, distilled_E2, explained = principal_plane(features_nD[rows], features_ED, seed)
    real = [[round(float(x), 4), round(float(y), 4), int(group)] for (x, y), group in zip(real_n2, labels_n, strict=True)]
    distilled = [
        [round(float(x), 4), round(float(y), 4), int(group), number]
        for number, ((x, y), group) in enumerate(zip(distilled_E2, groups_E, strict=True), 1)
    ]
    groups = list(tokens.label_names) if task.one_class else ["real texts"]
    return {"real": real, "distilled": distilled, "groups": groups, "explained": explained}


def rate_groups(prepared: Prepared, data: DistilledData) -> list[str]:
    """Names of the parameter groups that the rates of a data set belong to."""
    head = jax.eval_shape(prepared.learner.init_head, jax.random.key(0), prepared.start.pooler)
    params, count = with_moves({"body": prepared.start.body, "head": head}, data), data.rates.shape[1]
    return next((list(names) for kind in ("step", "layer", "tensor") if len(names := group_names(params, kind)) == count), [])


def print_look(look: dict[str, Any], console: Console | None = None) -> None:
    """Distilled examples beside the nearest real texts as a table in the terminal."""
    console = console or Console(highlight=False)
    table = Table(title="Distilled beside real", title_style="bold", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for heading in ("", "label", "nearest tokens, with cosine", "nearest real text, with cosine"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "")
    for example in look["examples"]:
        values = "\n".join(f"{value['name']} {value['value']:.2f}" for value in example["values"])
        tokens = Text()
        for position in example["positions"]:
            tokens.append(position["tokens"][0], style="bold" if position["near"] > 0.5 else "")
            tokens.append(f" {position['cosines'][0]:.2f}  ", style="dim")
        near = Text()
        for real in example["nearest"]:
            near.append(f"{real['cosine']:.3f} ", style="dim")
            near.append(f"{real['label']} ", style="bold")
            near.append(f"{cut(real['text'], PLAIN_TEXT)}\n")
        table.add_row(Text(str(example["number"])), Text(f"{example['label']}\n{values}"), tokens, near)
    console.print(table)
    for move in look["words"]:
        for end in ("with", "against"):
            console.print(Text.assemble(("words that go ", "dim"), (f"{end} {move['name']}", "bold"), f"  {as_line(move[end])}"))
    if look["shown"] < look["total"]:
        console.print(f"The first {look['shown']} of {look['total']} examples; config.report.examples says how many.", markup=False)


def markdown_look(look: dict[str, Any], title: str) -> str:
    """The same as Markdown, with all nearest tokens of every position."""
    lines = [f"### Distilled beside real: {title}", "", f"{look['shown']} of {look['total']} examples; each position with its {look['tokens']} nearest tokens."]
    lines += ["", "| embeddings of these positions | learned | nearest tokens' rows |", "|---|---:|---:|"]
    for row in look["beside"]:
        lines.append(f"| {row['name']} | {row['learned']:.3f} | {'' if row['table'] is None else format(row['table'], '.3f')} |")
    if look["words"]:
        lines += ["", "| words move along with what is learned of | farthest with it | farthest against it |", "|---|---|---|"]
        lines += [f"| {plain(move['name'])} | {plain(as_line(move['with']))} | {plain(as_line(move['against']))} |" for move in look["words"]]
    for example in look["examples"]:
        values = ", ".join(f"{plain(value['name'])} {value['value']:.3f}" for value in example["values"])
        lines += ["", f"#### Example {example['number']}: {plain(example['label'])}", "", f"Label values: {values}", "", f"> {plain(example['text'])}", ""]
        lines += ["| position | nearest tokens with cosine | length, of the token's |", "|---:|---|---:|"]
        for place, position in enumerate(example["positions"], 1):
            near = ", ".join(f"{plain(token)} {cosine:.2f}" for token, cosine in zip(position["tokens"], position["cosines"], strict=True))
            lines.append(f"| {place} | {near} | {position['length']:.2f} |")
        lines += ["", "Nearest real texts:", ""]
        lines += [f"- {real['cosine']:.3f}, {plain(real['label'])}: {plain(real['text'])}" for real in example["nearest"]]
    return "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """Text on one line in which Markdown, and HTML within it, see nothing of theirs."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", " ".join(text.split()))


def cut(text: str, characters: int) -> str:
    """At most so many characters of a text."""
    return text if len(text) <= characters else text[: characters - 1].rstrip() + "…"
