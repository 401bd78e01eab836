"""Soft prompts: input embeddings of the language model itself, learned so that the right label words become likely, and put before every text.

The same decoder function (models/decoder.py) learns and scores them; nothing of the model changes. Their first values are the embeddings of a few-shot
prompt (Lester et al., EMNLP 2021, start from the vocabulary too); what is learned is chosen on validation texts.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from ddllm.data.splits import Split, draw_part
from ddllm.data.tokens import load_tokenizer
from ddllm.errors import UserError
from ddllm.models.decoder import DecoderConfig, decode, predict
from ddllm.models.decoder_files import load_decoder
from ddllm.models.encoder import Tree
from ddllm.prompt.cache import key_of
from ddllm.prompt.causal import check_length, short_name
from ddllm.prompt.decoders import find_decoder, fingerprint_decoder
from ddllm.prompt.scoring import accuracy
from ddllm.prompt.sequences import Sequences, arrange
from ddllm.prompt.templates import Example, Template
from ddllm.runtime.checkpoints import Checkpoints
from ddllm.runtime.loop import Loop, keep_best, no_best
from ddllm.runtime.metrics import Metrics
from ddllm.runtime.progress import Progress
from ddllm.runtime.storage import write_atomically, write_json

STEP = 16  # sequences are filled up to multiples of so many tokens, so that few programs are compiled
FIRST_EXAMPLES = 4  # of each class, whose tokens the first values are taken from


@dataclass(frozen=True)
class SoftModel:
    """A language model that soft prompts are learned for.

    Attributes:
        config: its constants.
        params: its parameters.
        tokenizer: its tokenizer.
        template: the wording of texts and labels.
        name: what it is called.
    """

    config: DecoderConfig
    params: Tree
    tokenizer: Any
    template: Template
    name: str

    def question(self, text: str, pair: str = "") -> str:
        """A text as it stands behind a soft prompt."""
        return self.template.prefix([]) + self.template.query(text, pair)

    def arrange(self, questions: Sequence[str], positions: int) -> Sequences:
        """Token sequences of questions with every label word, which leave room for so many positions before them.

        Raises:
            UserError: they do not.
        """
        sequences = arrange(self.tokenizer, questions, self.template.continuations)
        check_length(sequences, self.config.positions - positions, self.name)
        return sequences


class Questions(NamedTuple):
    """Questions as arrays: R sequences for B texts with C label words of up to L tokens.

    Attributes:
        ids: tokens [R, T].
        rows: number of the sequence [B, C] that predicts a label word.
        places: positions [B, C, L] that predict its tokens.
        tokens: these [B, C, L].
        weights: 1 for those that are there, [B, C, L].
        labels: classes [B].
    """

    ids: np.ndarray
    rows: np.ndarray
    places: np.ndarray
    tokens: np.ndarray
    weights: np.ndarray
    labels: np.ndarray


class SoftState(NamedTuple):
    """What learning a soft prompt carries: steps done, the prompt [P, D], the optimizer's state, and the best validation's prompt."""

    step: jax.Array
    prompt: jax.Array
    optimizer: Any
    best: dict[str, Any]


def load_soft_model(name: str, template: Template) -> tuple[SoftModel, Path]:
    """The language model that config.prompt names, and its folder.

    Raises:
        UserError: it is not there, or not of a family that soft prompts can be learned for.
    """
    folder = find_decoder(name)
    config, params = load_decoder(folder)
    return SoftModel(config, jax.tree.map(jnp.asarray, params), load_tokenizer(folder), template, short_name(name)), folder


def to_arrays(sequences: Sequences, numbers: Sequence[int], labels: np.ndarray, rows: int, most: int) -> Questions:
    """Some prompts as arrays, their sequences filled up with further ones to `rows`, and to a multiple of `STEP` positions, `most` at most."""
    targets = [sequences.targets[number] for number in numbers]
    used = sorted({target.row for found in targets for target in found})
    place_of = {row: place for place, row in enumerate(used)}
    longest = max(len(sequences.ids[row]) for row in used)
    ids = np.zeros((rows, min(-(-longest // STEP) * STEP, most)), np.int32)
    for row, place in place_of.items():
        ids[place, : len(sequences.ids[row])] = sequences.ids[row]
    shape = (len(targets), len(targets[0]), max(len(target.tokens) for found in sequences.targets for target in found))
    places, tokens, weights = np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    for text, found in enumerate(targets):
        for label, target in enumerate(found):
            count = len(target.tokens)
            places[text, label, :count] = target.first + np.arange(count)
            tokens[text, label, :count], weights[text, label, :count] = target.tokens, 1
    found_rows = np.array([[place_of[target.row] for target in found] for found in targets], np.int32)
    return Questions(ids, found_rows, places, tokens, weights, labels.astype(np.int32))


@partial(jax.jit, static_argnames="config")
def score(config: DecoderConfig, params: Tree, prompt_PD: jax.Array, questions: Questions) -> jax.Array:
    """Log-likelihoods [B, C] of the label words behind a soft prompt."""
    ids = jnp.asarray(questions.ids)
    prompt = jnp.broadcast_to(prompt_PD[None], (ids.shape[0], *prompt_PD.shape))
    hidden = decode(params, config, jnp.concatenate([prompt, params["words"][ids]], axis=1))
    wanted_BCLD = hidden[questions.rows[:, :, None], questions.places + prompt_PD.shape[0]]
    values_BCL = jnp.take_along_axis(predict(params, wanted_BCLD), jnp.asarray(questions.tokens)[..., None], axis=-1)[..., 0]
    return jnp.sum(values_BCL * questions.weights, axis=-1)


def score_texts(model: SoftModel, prompt_PD: jax.Array, questions: Sequence[str], batch_size: int, title: str = "") -> np.ndarray:
    """Log-likelihoods [n, C] of the label words behind a soft prompt, in batches of texts of like length."""
    sequences = model.arrange(questions, prompt_PD.shape[0])
    rows = batch_size * rows_of_text(sequences)
    order = sorted(range(len(questions)), key=lambda number: len(sequences.ids[sequences.targets[number][0].row]))
    scores_nC = np.zeros((len(questions), len(model.template.words)))
    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]

    def run(numbers: list[int]) -> None:
        full = (numbers * batch_size)[:batch_size]  # the last batch repeats its texts
        arrays = to_arrays(sequences, full, np.zeros(batch_size), rows, model.config.positions - prompt_PD.shape[0])
        scores_nC[numbers] = np.asarray(score(model.config, model.params, prompt_PD, arrays))[: len(numbers)]

    if not title:
        for numbers in batches:
            run(numbers)
        return scores_nC
    with Progress(len(batches), title) as progress:
        for numbers in batches:
            run(numbers)
            progress.update(progress.done + 1)
    return scores_nC


def rows_of_text(sequences: Sequences) -> int:
    """Most sequences that one text has."""
    return max(len({target.row for target in found}) for found in sequences.targets)


def first_prompt(model: SoftModel, train: Split, positions: int, classes: int, seed: int) -> jax.Array:
    """The embeddings [P, D] of the first tokens of a few-shot prompt of random training texts, repeated where it is shorter."""
    rng = np.random.default_rng([seed, 43])
    groups = [rng.permutation(np.flatnonzero(train.labels == label))[:FIRST_EXAMPLES] for label in range(classes)]
    rows = [int(row) for row in rng.permutation(np.concatenate(groups))]
    pairs = train.pairs or [""] * len(train)
    text = model.template.prefix([Example(train.texts[row], int(train.labels[row]), pairs[row]) for row in rows])
    ids = np.resize(np.asarray(model.tokenizer(text)["input_ids"], np.int32), positions)
    return model.params["words"][ids]


def learn_soft(
    config: ConfigDict, model: SoftModel, train: Split, validation: Split, seed: int, checkpoints: Checkpoints, metrics: Metrics, name: str
) -> np.ndarray:
    """Learn one soft prompt [P, D], from the last checkpoint where there is one.

    Args:
        config: config.prompt.
        model: whose embeddings it consists of.
        train: texts that it is learned from.
        validation: texts that states are chosen on.
        seed: of first values and batches.
        checkpoints, metrics: where the state and the figures go.
        name: of the figures.

    Raises:
        Diverged: the loss became NaN or infinite.
        UserError: a text does not fit the model's positions.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(config.soft_rate, config.soft_steps))
    classes, size = len(model.template.words), config.soft_batch_size
    chosen = draw_part(validation, config.soft_validation_texts, [config.seed, 47])
    asked = [model.question(*row) for row in zip(chosen.texts, chosen.pairs or [""] * len(chosen), strict=True)]

    def loss(prompt_PD: jax.Array, params: Tree, questions: Questions) -> tuple[jax.Array, jax.Array]:
        log_BC = jax.nn.log_softmax(score(model.config, params, prompt_PD, questions), axis=-1)
        right = jnp.take_along_axis(log_BC, jnp.asarray(questions.labels)[:, None], axis=1)[:, 0]
        return -jnp.mean(right), jnp.mean((jnp.argmax(log_BC, axis=1) == questions.labels).astype(jnp.float32))

    @jax.jit
    def move(prompt_PD: jax.Array, memory: Any, params: Tree, questions: Questions) -> tuple[Any, ...]:
        (value, agreement), gradient = jax.value_and_grad(loss, has_aux=True)(prompt_PD, params, questions)
        updates, memory = optimizer.update(gradient, memory)
        return optax.apply_updates(prompt_PD, updates), memory, value, agreement

    def batch(index: int) -> Questions:
        rows = np.random.default_rng([seed, 53, index]).integers(len(train), size=size)
        pairs = train.pairs or [""] * len(train)
        sequences = model.arrange([model.question(train.texts[row], pairs[row]) for row in rows], config.soft_tokens)
        return to_arrays(sequences, range(size), train.labels[rows], size * rows_of_text(sequences), model.config.positions - config.soft_tokens)

    def advance(state: SoftState, index: int) -> tuple[SoftState, dict[str, jax.Array]]:
        prompt, memory, value, agreement = move(state.prompt, state.optimizer, model.params, batch(index))
        return SoftState(state.step + 1, prompt, memory, state.best), {"loss": value, "accuracy": agreement}

    def validate(state: SoftState) -> tuple[SoftState, float]:
        reached = accuracy(score_texts(model, state.prompt, asked, size), chosen.labels)
        return state._replace(best=keep_best(state.best, {"prompt": state.prompt}, reached, state.step)), reached

    start = first_prompt(model, train, config.soft_tokens, classes, seed)
    state = SoftState(jnp.asarray(0, jnp.int32), start, optimizer.init(start), no_best({"prompt": start}))
    every = -(-config.soft_steps // config.soft_validations)
    state, _ = Loop(name, config.soft_steps, every, max(every // 4, 1), checkpoints, metrics).run(state, advance, validate)
    return np.asarray(state.best["prompt"])


def learn_or_load(
    config: ConfigDict, model: SoftModel, folder: Path, base: Path, splits: tuple[Split, Split], seed: int, metrics: Callable[[], Metrics]
) -> np.ndarray:
    """The soft prompt [P, D] of these settings, from its file where it has been learned before.

    Args:
        config: config.prompt.
        model: whose it is.
        folder: of soft prompts.
        base: the model's folder.
        splits: training and validation texts.
        seed: of first values and batches.
        metrics: opens where figures go.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file, save_file

    settings = {key: value for key, value in config.to_dict().items() if key.startswith("soft_") and key not in ("soft_seeds",)}
    texts = key_of(*(text for split in splits for text in split.texts))
    settings |= {"seed": seed, "part": config.seed, "model": fingerprint_decoder(base), "wording": repr(model.template), "texts": texts}
    key = key_of(json.dumps(settings, sort_keys=True))[:12]
    place, shape = folder / key / "prompt.safetensors", (config.soft_tokens, model.config.hidden)
    try:
        kept = load_file(place).get("embeddings") if place.is_file() else None
    except SafetensorError as error:
        raise UserError(f"{place} is damaged ({error}); remove it, and it is learned again.") from None
    if kept is not None and kept.shape == shape:
        return kept
    (folder / key).mkdir(parents=True, exist_ok=True)
    checkpoints, figures = Checkpoints(folder / key / "checkpoints", 1), metrics()
    try:
        prompt = learn_soft(config, model, *splits, seed, checkpoints, figures, f"soft-prompt-{seed}")
    finally:
        checkpoints.close()
        figures.close()
    with write_atomically(place) as temporary:
        save_file({"embeddings": prompt}, temporary)
    write_json(folder / key / "settings.json", settings | {"name": model.name})
    return prompt
