"""Wordings: defaults of known data sets, what is filled in, and sentences for what does not suit."""

import pytest

from ddllm.config import default_config
from ddllm.errors import UserError
from ddllm.prompt.checks import validate_prompt
from ddllm.prompt.templates import Example, make_template


def test_defaults_of_known_data_sets():
    for source, names, words in (
        ("stanfordnlp/sst2", ("negative", "positive"), ("negative", "positive")),
        ("/data/sst2", ("0", "1"), ("negative", "positive")),
        ("embedded", ("rotten", "fresh"), ("negative", "positive")),
        ("imdb", ("pos", "neg"), ("positive", "negative")),
        ("fancyzhx/ag_news", ("World", "Sports", "Business", "Sci/Tech"), ("World", "Sports", "Business", "Technology")),
        ("my.csv", ("cat", "dog"), ("cat", "dog")),
    ):
        assert make_template(source, names).words == words
    assert "Topic" in make_template("data/ag_news", "0123").pattern and "{pair}" in make_template("rte", ("yes", "no"), pairs=True).pattern


def test_prompts_are_filled_in():
    template = make_template("x", ("no", "yes"), "Q: {text} A: {label}", separator=" | ", instruction="Say yes or no.", text_words=2)
    assert template.continuations == (" no", " yes") and template.query("one  two\nthree") == "Q: one two A:"
    assert template.prefix([Example("{label}", 1), Example("b", 0)]) == "Say yes or no. | Q: {label} A: yes | Q: b A: no | "
    assert make_template("x", ("no", "yes"), "{text}={label}").continuations == ("no", "yes")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("x", ("0", "1")), "say what they mean"),
        (("x", ("a", "b"), "", ("a",)), "has 1 words, but there are 2 classes"),
        (("x", ("a", "b"), "{text}: {label}!"), "end with"),
        (("x", ("a", "b"), "{txt}: {label}"), "what can stand in braces"),
        (("x", ("a", "b"), "{text}: {label"), "is not a template"),
        (("x", ("a", "b"), "{text:d}: {label}"), "write {text} alone"),
        (("x", ("a", "b"), "{text!r}: {label}"), "write {text} alone"),
        (("x", ("a", "b"), "{text} {pair}: {label}"), "single ones"),
        (("x", ("a", "b"), "{text}: {label}", (), True), "come in pairs"),
    ],
)
def test_what_does_not_suit(arguments, message):
    with pytest.raises(UserError, match=message):
        make_template(*arguments)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("per_class", (0,), "whole numbers"),
        ("examples", ("herdin",), r"did you mean herding\?"),
        ("examples", ("random", "random"), "twice"),
        ("ask", "eco", r"did you mean echo\?"),
        ("label_words", ("a", "a"), "a word of its own"),
        ("max_cost", 1.0, "price_per_million"),
        ("base_url", "127.0.0.1:80", "no address"),
        ("base_url", "http://127.0.0.1:abc/v1", "no address"),
        ("base_url", "http://127.0.0.1:99999/v1", "no address"),
        ("base_url", "http://a..b/v1", "no address"),
        ("base_url", "http://me:secret@127.0.0.1/v1", "no user"),
        ("base_url", "http://me:secret@127.0.0.1:abc/v1", "no user"),
        ("base_url", "http://me:secret@[::1/v1", "no user"),
        ("base_url", "http://127.0.0.1/v1", "the name that the server knows"),
        ("texts", -1, "must not be negative"),
        ("orders", 0, "greater than 0"),
    ],
)
def test_values_that_cannot_be_meant(key, value, message):
    config = default_config()
    config.prompt[key] = value
    with pytest.raises(UserError, match=message) as caught:
        validate_prompt(config.prompt)
    assert "secret" not in str(caught.value)
