"""How prompts are worded: a `Template` makes them out of examples and texts, with words for the classes.

A prompt is instruction, examples and the text in question, each example with its label's word; the model's part is that word. Blanks at the end of
a prompt belong to the word (" positive"), since GPT-family tokenizers join them to it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from ddllm.errors import UserError
from ddllm.prompt.checks import check_template

REVIEWS, NEWS = "Review: {text}\nSentiment: {label}", "Article: {text}\nTopic: {label}"
ANY, ANY_PAIR = "Text: {text}\nLabel: {label}", "First text: {text}\nSecond text: {pair}\nLabel: {label}"
SENTIMENT, TOPICS = ("negative", "positive"), ("World", "Sports", "Business", "Technology")
# Wordings of known data sets, by a part of the source's name (letters and digits alone).
KNOWN = {
    "sst2": (REVIEWS, SENTIMENT),
    "imdb": (REVIEWS, SENTIMENT),
    "rottentomatoes": (REVIEWS, SENTIMENT),
    "embedded": (REVIEWS, SENTIMENT),
    "agnews": (NEWS, TOPICS),
}
# What classes of these data sets are called, where their names are words: in the order of the label words above.
NAMES = {
    SENTIMENT: ({"negative", "neg", "rotten", "0"}, {"positive", "pos", "fresh", "1"}),
    TOPICS: ({"world", "0"}, {"sports", "1"}, {"business", "2"}, {"scitech", "sciencetechnology", "technology", "3"}),
}


@dataclass(frozen=True)
class Example:
    """A text with its class.

    Attributes:
        text: the text, or the first of a pair.
        label: number of the class.
        pair: the second text, where there is one.
    """

    text: str
    label: int
    pair: str = ""


@dataclass(frozen=True)
class Template:
    """The wording of prompts.

    Attributes:
        pattern: of an example, with {text} and, at its end, {label}.
        words: what stands for each class.
        separator: between examples.
        instruction: before the first of them; or nothing.
        text_words: texts are cut to so many words; 0: never.
    """

    pattern: str
    words: tuple[str, ...]
    separator: str = "\n\n"
    instruction: str = ""
    text_words: int = 0

    @property
    def continuations(self) -> tuple[str, ...]:
        """What the model is to go on with for each class: blanks at the pattern's end, and the word."""
        before = self.pattern.removesuffix("{label}")
        return tuple(before[len(before.rstrip()) :] + word for word in self.words)

    def query(self, text: str, pair: str = "") -> str:
        """A text as the prompt ends with it, up to the blanks before the label."""
        return self._fill(text, pair, "").rstrip()

    def prefix(self, examples: Sequence[Example]) -> str:
        """What stands before the text in question."""
        shown = [self._fill(example.text, example.pair, self.words[example.label]) for example in examples]
        return "".join(part + self.separator for part in ([self.instruction] if self.instruction else []) + shown)

    def _fill(self, text: str, pair: str, label: str) -> str:
        return self.pattern.format(text=self._cut(text), pair=self._cut(pair), label=label)

    def _cut(self, text: str) -> str:
        words = text.split()
        return " ".join(words[: self.text_words] if self.text_words else words)


def make_template(
    source: str,
    label_names: Sequence[str],
    pattern: str = "",
    words: Sequence[str] = (),
    pairs: bool = False,
    separator: str = "\n\n",
    instruction: str = "",
    text_words: int = 0,
) -> Template:
    """The template of a corpus: as given or, where nothing is given, as suits the data set.

    Args:
        source: config.data.source, whose last part may name a known data set.
        label_names: the corpus's class names.
        pattern, words: of config.prompt; empty for defaults.
        pairs: whether texts come in pairs.
        separator, instruction, text_words: as in `Template`.

    Raises:
        UserError: the pattern does not suit, there are too many or too few words, or the classes are called by numbers that mean nothing.
    """
    check_template(pattern)
    key = re.sub(r"[^a-z0-9]", "", PurePath(source).name.lower())
    known = next((wording for name, wording in KNOWN.items() if name in key), None) if not pairs else None
    pattern = pattern or (known[0] if known else ANY_PAIR if pairs else ANY)
    if pairs and "{pair}" not in pattern:
        raise UserError("config.prompt.template has no {pair}, but the texts come in pairs; put it in.")
    if not pairs and "{pair}" in pattern:
        raise UserError("config.prompt.template has {pair}, but the texts are single ones; take it out.")
    chosen = tuple(str(word).strip() for word in words) or _default_words(label_names, known[1] if known else ())
    if len(chosen) != len(label_names):
        raise UserError(
            f"config.prompt.label_words has {len(chosen)} words, but there are {len(label_names)} classes ({', '.join(label_names)}); "
            "give one for each, in this order."
        )
    return Template(pattern, chosen, separator, instruction, text_words)


def _default_words(label_names: Sequence[str], known: tuple[str, ...]) -> tuple[str, ...]:
    plain = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in label_names]
    for words in (known,) if known else ((SENTIMENT,) if not all(name.isdigit() for name in plain) else ()):
        meant = [next((word for word, names in zip(words, NAMES[words], strict=True) if name in names), None) for name in plain]
        if len(set(meant)) == len(plain) and None not in meant:
            return tuple(word for word in meant if word)
    if all(re.fullmatch(r"-?\d+", name) for name in label_names):
        raise UserError(
            f"the classes are called {', '.join(label_names)}, which tells a language model nothing; say what they mean, in this order, as in "
            "--config.prompt.label_words=\"('no','yes')\"."
        )
    return tuple(label_names)
