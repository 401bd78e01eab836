"""A language model behind an OpenAI-compatible server, asked in the best of the ways that it offers.

| way | request | what scores a label |
|---|---|---|
| echo | completions of prompt and label, echoed with log-probabilities | the sum over the label's tokens |
| first, chat_first | one token with the likeliest alternatives | the first tokens that are the label, or begin it and no other |
| text, chat_text | a few tokens | whether the label stands first in the answer |
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ddllm.errors import UserError
from ddllm.prompt.cache import Answers, key_of
from ddllm.prompt.client import Client
from ddllm.prompt.dialect import Refused
from ddllm.prompt.labels import answer_of, read_likeliest, read_number, score_echo, score_first, score_text
from ddllm.runtime.progress import say

# Ways in the order of preference, with the number of alternatives asked for (OpenAI's completions give five, others more); then the generated ones, which
# have config.prompt.answer_tokens.
WAYS = (("echo", 1), ("first", 20), ("first", 5), ("chat_first", 20), ("chat_first", 5))
FIRST_TOKEN, GENERATED = ("first", "chat_first"), ("text", "chat_text")
HOW = {
    "echo": "log-likelihood of the label's tokens",
    "first": "log-probability of the label's first token among the likeliest",
    "text": "label found in the generated text",
}
PROBE, PROBED = "Review: a good film\nSentiment:", (" negative", " positive")
CHECKED = (PROBE, "Monday, Tuesday,", "the actor was very")
AGREEMENT = 0.3  # nats between two computations of the same log-probability, by quantised models in batches too


class ServerModel:
    """A backend (see backend.py) on a server.

    Args:
        name: what the server calls the model.
        client: sends requests.
        answers: those so far.
        way: one of `WAYS`, or of `GENERATED` with the tokens of an answer.
        place: what tells this server's answers from another's.
        parallel: requests at a time.
    """

    def __init__(self, name: str, client: Client, answers: Answers, way: tuple[str, int], place: str, parallel: int):
        self.name, self.way = name, way
        self.calibrated = way[0] not in GENERATED
        self._client, self._answers, self._place, self._parallel = client, answers, place, parallel

    @property
    def how(self) -> str:
        """What was asked for, and whether the server lets its temperature be set to 0."""
        own = not self._client.dialect(path_of(self.way[0]), self.name).temperature
        return HOW[self.way[0].removeprefix("chat_")] + ", at the server's own temperature" * own

    def score(self, prompts: Sequence[str], continuations: Sequence[str], done: Callable[[int], None] = lambda count: None) -> np.ndarray:
        """Log-likelihoods [n, C], or what stands for them; see `Backend`."""
        keys = [key_of(self._place, self.name, *map(str, self.way), prompt, *continuations) for prompt in prompts]
        unknown = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if self._answers.get(key) is None}
        done(len(prompts) - len(unknown))
        workers = ThreadPoolExecutor(self._parallel)
        try:
            for future in as_completed([workers.submit(self._ask, key, prompt, continuations) for key, prompt in unknown.items()]):
                future.result()
                done(1)
        except BaseException as error:
            self._client.stop()  # nobody asks for what others wait for
            if not isinstance(error, Refused):
                raise
            raise UserError(f"the server no longer answers as it did at first ({error}); set config.prompt.ask to another way than {self.way[0]}.") from None
        finally:
            workers.shutdown(cancel_futures=True)
        return np.array([self._answers.get(key) for key in keys], np.float64).reshape(len(prompts), len(continuations))

    def close(self) -> None:
        self._client.close()
        self._answers.close()

    def _ask(self, key: str, prompt: str, continuations: Sequence[str]) -> None:
        # Kept here: where another request fails, nobody asks for this one's result any more.
        self._answers.put(key, ask(self._client, self.name, self.way, prompt, continuations))


def open_server(prompt: ConfigDict, name: str, answers: Answers, words: Sequence[str] = (), client: Client | None = None) -> ServerModel:
    """The backend for a model of the server at config.prompt.base_url; how it can be asked is tried once and remembered.

    Args:
        prompt: the section of the configuration.
        name: what the server calls the model.
        answers: those so far.
        words: what stands for each class; a first token is only asked for where it can tell them apart.
        client: sends requests; made as the configuration says if left out.

    Raises:
        UserError: the server cannot be reached, refuses the key, or does not do what config.prompt.ask says.
    """
    alike = begin_alike(words)
    if alike and prompt.ask in FIRST_TOKEN:
        raise UserError(
            f"config.prompt.ask is {prompt.ask!r}, but the first token cannot tell the labels {alike[0]!r} and {alike[1]!r} apart; "
            "give config.prompt.label_words that begin with different words, or set config.prompt.ask to another way."
        )
    client = client or Client(prompt, answers)
    offered = (*WAYS, *((kind, prompt.answer_tokens) for kind in GENERATED))
    ways = [way for way in offered if prompt.ask in ("auto", way[0]) and not (alike and way[0] in FIRST_TOKEN)]
    key = key_of("way", prompt.base_url, name, prompt.ask, str(prompt.answer_tokens), *["alike"] * bool(alike))
    known = answers.get(key)
    way: tuple[str, int] = (known[0], known[1]) if known else _find_way(client, name, ways, prompt.base_url)
    if known is None:
        answers.put(key, list(way))
        say(f"  {name} at {prompt.base_url} is asked for: {HOW[way[0].removeprefix('chat_')]}")
    return ServerModel(name, client, answers, way, prompt.base_url, prompt.parallel)


def begin_alike(words: Sequence[str]) -> tuple[str, str] | None:
    """The first two labels that begin with the same word, and so with the same token, if there are any."""
    seen: dict[str, str] = {}
    for word in words:
        start = next(iter(word.lower().split()), "")
        if start in seen:
            return seen[start], word
        seen[start] = word
    return None


def _find_way(client: Client, name: str, ways: Sequence[tuple[str, int]], url: str) -> tuple[str, int]:
    refusals: dict[str, str] = {}
    for way in ways:
        try:
            if way[0] in GENERATED:
                check_text(client, name, way)
            else:
                ask(client, name, way, PROBE, PROBED)
            if way[0] == "echo":
                check_echo(client, name)
            return way
        except Refused as error:
            refusals.setdefault(way[0], str(error))
    listed = "; ".join(f"{way}: {refusal}" for way, refusal in refusals.items())
    raise UserError(f"{url} answers {name} in none of the ways asked for ({listed}); check config.prompt.base_url, .model and .ask.")


def check_echo(client: Client, model: str) -> None:
    """Compare the log-probability of a generated token with that of the same token echoed: some servers shift those of a prompt by one token.

    Raises:
        Refused: they differ. A server that gives no log-probability of what it generates is believed.
    """
    for prompt in CHECKED:
        try:
            choice = client.post("completions", {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": 1})["choices"][0]
            text, value = str(choice["text"]), float(choice["logprobs"]["token_logprobs"][0])
        except (Refused, KeyError, TypeError, IndexError, ValueError):
            return
        if text and abs(_echoed(client, model, prompt, text) - value) > AGREEMENT:
            raise Refused("the log-probabilities of an echoed prompt are not those of its tokens")


def check_text(client: Client, model: str, way: tuple[str, int]) -> None:
    """Look whether a model that is asked something says anything.

    Raises:
        Refused: it says nothing, or nothing but thoughts.
    """
    if not answer_of(_generated(client, model, way, PROBE)).strip():
        raise Refused(
            f"an answer without text within {way[1]} tokens, as of models that think before they answer; these need a greater config.prompt.answer_tokens"
        )


def ask(client: Client, model: str, way: tuple[str, int], prompt: str, continuations: Sequence[str]) -> list[float]:
    """Scores [C] of continuations after one prompt.

    Raises:
        Refused: the server does not offer this way.
        UserError: see `Client`.
    """
    kind, count = way
    if kind == "echo":
        return [_echoed(client, model, prompt, continuation) for continuation in continuations]
    if kind in GENERATED:
        return score_text(answer_of(_generated(client, model, way, prompt)), continuations)
    asked = {"logprobs": True, "top_logprobs": count} if kind.startswith("chat_") else {"logprobs": count}
    return score_first(read_likeliest(_first_choice(client, model, kind, prompt, {"max_tokens": 1} | asked)), continuations)


def _generated(client: Client, model: str, way: tuple[str, int], prompt: str) -> str:
    """The text that a model goes on with."""
    kind, count = way
    choice = _first_choice(client, model, kind, prompt, {"max_tokens": count})
    said = choice.get("message") if kind == "chat_text" else choice
    text = said.get("content" if kind == "chat_text" else "text") if isinstance(said, dict) else None
    if kind == "chat_text" and isinstance(said, dict) and text is None:
        return ""  # as it is where all of it was thought
    if not isinstance(text, str):
        raise Refused("no text in the answer")
    return text


def _first_choice(client: Client, model: str, kind: str, prompt: str, asked: dict[str, Any]) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": prompt}]} if kind.startswith("chat_") else {"prompt": prompt}
    return client.post(path_of(kind), {"model": model, "temperature": 0, **asked, **body})["choices"][0]


def path_of(kind: str) -> str:
    """Where a way of asking is offered, below the server's address."""
    return "chat/completions" if kind.startswith("chat_") else "completions"


def _echoed(client: Client, model: str, prompt: str, continuation: str) -> float:
    body = {"model": model, "prompt": prompt + continuation, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
    answer = client.post("completions", body)
    try:
        found = answer["choices"][0]["logprobs"]
        tokens, values = list(found["tokens"]), [None if value is None else read_number(value) for value in found["token_logprobs"]]
    except (KeyError, TypeError, IndexError, ValueError):
        raise Refused("no log-probabilities of the prompt in the answer") from None
    return score_echo(tokens, values, continuation)
