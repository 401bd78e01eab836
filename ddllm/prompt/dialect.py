"""How a server wants to be asked, and what it says where it does not do what it was asked for."""

from typing import Any, NamedTuple

LIMIT, NEWER_LIMIT = ("max_tokens", "max_completion_tokens")
TEMPERATURE = "temperature"


class Refused(Exception):
    """The server understood and does not do that: a status of 400, 404, 405, 422 or 501, or an answer without what was asked for."""


class WordRefused(Refused):
    """The server does not take a part of the request as it was put: the limit of the answer, by its name, or a temperature."""

    def __init__(self, said: str, word: str):
        super().__init__(said)
        self.word = word


class Dialect(NamedTuple):
    """How a server wants to be asked.

    Attributes:
        limit: what it calls the limit of the answer.
        temperature: whether it lets itself be told one.
    """

    limit: str = LIMIT
    temperature: bool = True

    def put(self, body: dict[str, Any]) -> dict[str, Any]:
        """A request in this dialect."""
        return {self.limit if key == LIMIT else key: value for key, value in body.items() if key != TEMPERATURE or self.temperature}

    def without(self, word: str) -> "Dialect":
        """The dialect to try where a word was refused."""
        if word == TEMPERATURE:
            return self._replace(temperature=False)
        return self._replace(limit=LIMIT if self.limit == NEWER_LIMIT else NEWER_LIMIT)
