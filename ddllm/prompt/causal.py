"""A causal language model of transformers, run here by PyTorch: prompts that begin alike share the keys and values of their beginning."""

import copy
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from ddllm.errors import UserError
from ddllm.prompt.cache import Answers, key_of
from ddllm.prompt.decoders import NEEDED, find_decoder, fingerprint_decoder, first_line, quiet_transformers
from ddllm.prompt.sequences import Sequences, arrange

SAME = 1e-4  # largest difference, as a share of the largest logit, between what is the same but for rounding


class CausalModel:
    """A backend (see backend.py) on PyTorch.

    Args:
        name: what it is called in results.
        folder: of its files.
        batch_size: sequences in a forward pass.
        answers: those so far.
    """

    how, calibrated = "log-likelihood of the label's tokens", True

    def __init__(self, name: str, folder: Path, batch_size: int, answers: Answers):
        self.name, self.batch_size = name, batch_size
        self._answers, self._fingerprint = answers, fingerprint_decoder(folder)
        self._folder = folder
        self._loaded: tuple[Any, Any] | None = None

    def score(self, prompts: Sequence[str], continuations: Sequence[str], done: Callable[[int], None] = lambda count: None) -> np.ndarray:
        """Log-likelihoods [n, C]; see `Backend`.

        Raises:
            UserError: a prompt is longer than the model's positions.
        """
        keys = [key_of(self._fingerprint, prompt, *continuations) for prompt in prompts]
        unknown = [number for number, key in enumerate(keys) if self._answers.get(key) is None]
        done(len(prompts) - len(unknown))
        if unknown:
            model, tokenizer = self._load()
            sequences = arrange(tokenizer, [prompts[number] for number in unknown], continuations)
            check_length(sequences, getattr(model.config, "max_position_embeddings", None), self.name)
            for numbers, rows in score_sequences(model, sequences, self.batch_size):
                for number, row in zip(numbers, rows, strict=True):
                    self._answers.put(keys[unknown[number]], row)
                done(len(numbers))
        return np.array([self._answers.get(key) for key in keys], np.float64).reshape(len(prompts), len(continuations))

    def close(self) -> None:
        self._answers.close()
        self._loaded = None

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            self._loaded = load_causal(self._folder)
        return self._loaded


def open_causal(name: str, batch_size: int, answers: Answers) -> CausalModel:
    """The backend for a hub name, a local folder, a GGUF file or "embedded"; weights are read at the first question that has not been answered.

    Raises:
        UserError: there is no such model, or PyTorch is not installed.
    """
    if find_spec("torch") is None:
        raise UserError(f"language models are run by PyTorch, which is not installed here; run `{NEEDED}`, or set config.prompt.base_url.")
    return CausalModel(short_name(name), find_decoder(name), batch_size, answers)


def short_name(name: str) -> str:
    """What a model is called in results."""
    return "SmolLM2-135M" if name == "embedded" else PurePath(name).stem if name.endswith(".gguf") else PurePath(name).name


def load_causal(folder: Path) -> tuple[Any, Any]:
    """Model (float32, on a GPU where PyTorch has one) and tokenizer; only safetensors are read, and no code of the model's own is run.

    Raises:
        UserError: the folder holds no language model that transformers knows, or one that is not causal.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with quiet_transformers():
            options: Any = {"local_files_only": True, "trust_remote_code": False}
            tokenizer = AutoTokenizer.from_pretrained(str(folder), **options)
            model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype="float32", use_safetensors=True, **options)
    except Exception as error:  # Many kinds, for a damaged file as for an unknown architecture.
        raise UserError(f"{folder} cannot be read as a causal language model: {first_line(error)}.") from error
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    if not is_causal(model):
        raise UserError(
            f"{folder} holds a {type(model).__name__}, whose predictions of a token depend on the tokens behind it; prompts need a causal language model, such "
            "as a GPT or a Llama."
        )
    return model, tokenizer


def is_causal(model: Any) -> bool:
    """Whether what is predicted at a position depends on nothing behind it: encoders and XLNet load as causal models too, and are none."""
    import torch

    inputs = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]], device=model.device) % model.config.get_text_config().vocab_size
    with torch.inference_mode():
        logits_BTV = model(input_ids=inputs).logits.float()[:, :-1]
    return bool((logits_BTV[0] - logits_BTV[1]).abs().max() <= SAME * logits_BTV.abs().max())


def check_length(sequences: Sequences, positions: int | None, name: str) -> None:
    """Raise `UserError` where a sequence has more tokens than a model has positions (None, or the −1 of some configurations: unknown, or without end)."""
    longest = max(len(ids) for ids in sequences.ids)
    if positions is not None and 0 < positions < longest:
        raise UserError(
            f"a prompt of {longest} tokens does not fit the {positions} positions of {name}; make config.prompt.text_words or "
            "config.prompt.per_class smaller."
        )


def score_sequences(model: Any, sequences: Sequences, batch_size: int) -> Any:
    """Yield (numbers of prompts, their log-likelihoods [b, C] as lists) batch by batch; prompts of like length go together.

    The common beginning of all is computed once, where the model remembers keys and values and nothing else. What is filled up lies behind what is looked
    at, so that a causal model needs no mask.
    """
    import torch

    common = sequences.common
    order = sorted(range(len(sequences.targets)), key=lambda number: len(sequences.ids[sequences.targets[number][0].row]))
    with torch.inference_mode():
        beginning = None
        if common:
            inputs = torch.tensor([sequences.ids[0][:common]], device=model.device)
            beginning = repeatable(model(input_ids=inputs, use_cache=True, logits_to_keep=1))
        common = common if beginning is not None else 0
        for numbers in _batches(sequences, order, batch_size):
            rows = sorted({target.row for number in numbers for target in sequences.targets[number]})
            found = _log_probabilities(model, sequences, numbers, rows, common, beginning)
            yield numbers, found


def repeatable(output: Any) -> Any:
    """The keys and values that a model remembers of a beginning, or None: some give none back, and others have states that only single tokens go on from."""
    past = getattr(output, "past_key_values", None)
    layers = getattr(past, "layers", [])
    states = any(hasattr(layer, "conv_states") or hasattr(layer, "recurrent_states") for layer in layers)
    return past if hasattr(past, "batch_repeat_interleave") and not states else None


def _batches(sequences: Sequences, order: list[int], batch_size: int) -> list[list[int]]:
    """Numbers of prompts, in batches of at most so many sequences (and of one prompt at least)."""
    batches: list[list[int]] = []
    room = 0
    for number in order:
        size = len({target.row for target in sequences.targets[number]})
        if room < size:
            batches.append([])
            room = batch_size
        batches[-1].append(number)
        room -= size
    return batches


def _log_probabilities(model: Any, sequences: Sequences, numbers: list[int], rows: list[int], common: int, beginning: Any) -> list[list[float]]:
    import torch

    rests = [sequences.ids[row][common:] for row in rows]
    longest = max(len(rest) for rest in rests)
    inputs = torch.tensor([rest + [0] * (longest - len(rest)) for rest in rests], device=model.device)
    past = None
    if beginning is not None:
        past = copy.deepcopy(beginning)
        past.batch_repeat_interleave(len(rows))
    wanted = [target for number in numbers for target in sequences.targets[number]]
    places = sorted({target.first - common + place for target in wanted for place in range(len(target.tokens))})
    kept = torch.tensor(places, device=model.device)
    output = model(input_ids=inputs, past_key_values=past, use_cache=past is not None, logits_to_keep=kept)
    log_BPV = torch.log_softmax(output.logits.float(), dim=-1)
    row_of, place_of = {row: index for index, row in enumerate(rows)}, {place: index for index, place in enumerate(places)}
    return [
        [
            float(sum(log_BPV[row_of[target.row], place_of[target.first - common + place], token] for place, token in enumerate(target.tokens)))
            for target in sequences.targets[number]
        ]
        for number in numbers
    ]
