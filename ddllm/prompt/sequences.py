"""From prompts and continuations to token sequences: which sequences a model has to see, and where in them the continuations' tokens are predicted.

A continuation of one token is predicted by the prompt alone, so that all such continuations share one sequence; of longer ones all tokens but the last
are part of the sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ddllm.errors import UserError

END_OF_TEXT = "<|endoftext|>"  # between documents in the pretraining of GPT-2, of what came after it, and of SmolLM2


class Target(NamedTuple):
    """Where one continuation of one prompt is scored.

    Attributes:
        row: number of the sequence.
        first: position in it that predicts the continuation's first token.
        tokens: the continuation's tokens; the j-th is predicted at position first + j.
    """

    row: int
    first: int
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Sequences:
    """What a model has to see to score prompts.

    Attributes:
        ids: tokens of each sequence, no two of one prompt alike.
        targets: for each prompt, those of its C continuations.
    """

    ids: list[list[int]]
    targets: list[list[Target]]

    @property
    def common(self) -> int:
        """How many tokens all sequences begin with alike; the last position of every prompt is left out."""
        if not self.ids:
            return 0
        most = min(target.first for targets in self.targets for target in targets)
        first, last = min(self.ids), max(self.ids)
        return next((place for place in range(most) if first[place] != last[place]), most)


def arrange(tokenizer: Any, prompts: Sequence[str], continuations: Sequence[str]) -> Sequences:
    """Tokenise every prompt with each of its continuations as one text, as the model would read it.

    Raises:
        UserError: a continuation has no token of its own.
    """
    count = len(continuations)
    plain = _encode(tokenizer, list(prompts))
    whole = _encode(tokenizer, [prompt + continuation for prompt in prompts for continuation in continuations])
    ids: list[list[int]] = []
    targets: list[list[Target]] = []
    begin = [token] if (token := _begin(tokenizer)) is not None else []
    for number, prompt in enumerate(plain):
        # A prompt that is no token needs a beginning, which its continuations then stand behind.
        before = [] if prompt else begin
        prompt = prompt or begin
        rows: dict[tuple[int, ...], int] = {}
        found = []
        for continuation, whole_row in zip(continuations, whole[number * count : (number + 1) * count], strict=True):
            full = [*before, *whole_row]
            # Where the tokenizer joins the prompt's end with the continuation, the joint token counts as the continuation's.
            start = next((place for place, (one, other) in enumerate(zip(prompt, full, strict=False)) if one != other), min(len(prompt), len(full)))
            if start == len(full) or not start:
                raise UserError(f"the model's tokenizer has no token for {continuation!r} behind a prompt; choose other words in config.prompt.label_words.")
            seen = tuple(full[:-1])
            if seen not in rows:
                rows[seen] = len(ids)
                ids.append(list(seen))
            found.append(Target(rows[seen], start - 1, tuple(full[start:])))
        targets.append(found)
    return Sequences(ids, targets)


def whole_texts(tokenizer: Any, texts: Sequence[str]) -> Sequences:
    """Every text from its first token on, as what follows the beginning of a document.

    That beginning is what documents were separated by when the model was pretrained: the tokenizer's own first token where it puts one before a text, else
    `<|endoftext|>` where it knows that, else its BOS or EOS token.

    Raises:
        UserError: a text has no token, or there is no token to begin with.
    """
    rows, begin = _encode(tokenizer, list(texts)), _begin(tokenizer)
    opened = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    if opened:
        rows, begin = [row[1:] for row in rows], tokenizer.bos_token_id
    elif END_OF_TEXT in (known := tokenizer.get_vocab()):
        begin = known[END_OF_TEXT]
    if begin is None:
        raise UserError("the language model's tokenizer has no token that a text begins with (BOS or EOS); choose another model.")
    for text, row in zip(texts, rows, strict=True):
        if not text.strip() or not row:
            raise UserError(f"{text!r} has no token for the language model, so that it cannot be scored; leave empty texts out.")
    ids = [[begin, *row[:-1]] for row in rows]
    return Sequences(ids, [[Target(number, 0, tuple(row))] for number, row in enumerate(rows)])


def _begin(tokenizer: Any) -> int | None:
    return tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id


def _encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    rows = [list(row) for row in tokenizer(texts, add_special_tokens=True)["input_ids"]]
    end = tokenizer.eos_token_id
    # Some tokenizers close a text, which a prompt must not be.
    ended = end is not None and tokenizer("a")["input_ids"][-1] == end
    return [row[:-1] if ended else row for row in rows]

