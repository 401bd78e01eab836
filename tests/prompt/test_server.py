"""A server's answers against the model's own, everything that can go wrong on the way, and limits that hold over all starts."""

import importlib.util
import threading
import time
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ddllm.config import default_config
from ddllm.errors import UserError
from ddllm.prompt import client
from ddllm.prompt.cache import Answers
from ddllm.prompt.causal import open_causal
from ddllm.prompt.client import Client, is_loopback
from ddllm.prompt.labels import answer_of, score_echo, score_first, score_text
from ddllm.prompt.server import open_server

spec = importlib.util.spec_from_file_location("fake_server", Path(__file__).parent / "fake_server.py")
fake_server = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fake_server)
NAMES = ("FakeServer", "CUT", "BROKEN", "SLOW", "EMPTY", "PACKED", "TRICKLE")
FakeServer, CUT, BROKEN, SLOW, EMPTY, PACKED, TRICKLE = (getattr(fake_server, name) for name in NAMES)

LABELS = (" positive", " negative")
PROMPTS = [f"Review : {text} Sentiment :" for text in ("a good film", "the dull story was boring", "the plot", "lovely")]


@pytest.fixture
def opened(tmp_path):
    """open(server, waited, **changes of config.prompt) -> backend; waits are noted and not waited."""

    def open_(server, waited=None, file="answers.jsonl", words=LABELS, **changes):
        config = default_config().prompt
        config.update({"base_url": server.url, "model": "tiny", "parallel": 1, "timeout": 1.0, **changes})
        answers = Answers(tmp_path / file)
        waited = [] if waited is None else waited
        return open_server(config, "tiny", answers, words, Client(config, answers, waited.append))

    return open_


@pytest.fixture(scope="module")
def folder(make_decoder):
    return make_decoder("llama")


@pytest.mark.parametrize("way", ["echo", "first", "chat_first"])
def test_the_model_s_own_scores(folder, opened, tmp_path, way):
    wanted = open_causal(str(folder), 4, Answers(tmp_path / "own")).score(PROMPTS, LABELS)
    with FakeServer(folder, (way, "text")) as server:
        backend = opened(server, parallel=3)
        assert backend.way[0] == way and backend.calibrated
        scores = backend.score(PROMPTS, LABELS)
        if way == "echo":
            np.testing.assert_allclose(scores, wanted, atol=1e-4)
        else:  # where a label is among the likeliest tokens
            known = np.array([[any(abs(score - value) < 1e-4 for value in row) for score in found] for found, row in zip(scores, wanted, strict=True)])
            assert known.any() and (scores[~known] < wanted.max()).all()
        sent = len(server.requests)
        backend.close()
        np.testing.assert_array_equal(opened(server).score(PROMPTS, LABELS), scores)
        assert len(server.requests) == sent, "answers that are kept were asked for again"


def test_nobody_waits_on_after_an_interrupt(folder, tmp_path):
    config = default_config().prompt
    with FakeServer(folder, ("first",)) as server:
        config.update({"base_url": server.url, "model": "tiny", "parallel": 2, "timeout": 10.0})
        answers = Answers(tmp_path / "answers.jsonl")
        asking = Client(config, answers)
        backend = open_server(config, "tiny", answers, LABELS, asking)
        waiting = threading.Event()

        def wait(seconds, wait=asking._sleep):
            waiting.set()
            wait(60)

        asking._sleep = wait
        server.faults = [None, *[429] * 20]

        def interrupt(count):
            if count:  # the first answer is there, and another request waits
                assert waiting.wait(30)
                raise KeyboardInterrupt

        begun = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            backend.score(PROMPTS, LABELS, interrupt)
        assert time.monotonic() - begun < 45


def test_a_shifted_echo_is_noticed(folder, opened):
    with FakeServer(folder, ("echo", "first")) as server:
        assert opened(server, file="right").way == ("echo", 1)
        server.shifted = True
        assert opened(server, file="shifted").way == ("first", 20)
        with pytest.raises(UserError, match="not those of its tokens"):
            opened(server, file="insisted", ask="echo")


def test_a_first_token_is_asked_for_only_where_it_tells_labels_apart(folder, opened):
    with FakeServer(folder, ("first", "text")) as server:
        assert opened(server).way[0] == "first"
        assert opened(server, words=("very good", "Very bad", "good")).way[0] == "text"
        assert opened(server).way[0] == "first", "what was found for other labels was taken"
        with pytest.raises(UserError, match="cannot tell the labels 'very good' and 'Very bad' apart; give config.prompt.label_words"):
            opened(server, words=("very good", "good", "Very bad"), ask="first")


def test_generated_labels(folder, opened):
    with FakeServer(folder, ("chat_text",)) as server:
        backend = opened(server)
        assert backend.way == ("chat_text", 8) and not backend.calibrated
        assert set(np.unique(backend.score(PROMPTS, LABELS))) <= {0.0, -1.0}
    assert score_text("It is Negative, not positive.", LABELS) == [-1, 0] and score_text("nonnegative", LABELS) == [-1, -1]


@pytest.mark.parametrize("nothing", ["", " \n", None, "<think> what does the user"])
def test_a_model_that_says_nothing_is_not_asked_for_text(folder, opened, nothing):
    with FakeServer(folder, ("chat_text",)) as server:
        server.says = lambda body: nothing
        with pytest.raises(UserError, match="chat_text: an answer without text within 8 tokens.* these need a greater config.prompt.answer_tokens"):
            opened(server)


def test_models_that_think_are_given_more_tokens(folder, opened):
    with FakeServer(folder, ("chat_text",)) as server:
        server.says = lambda body: "<think>Not positive?</think>\nNegative." if body["max_tokens"] >= 60 else "<think>Not"
        backend = opened(server, answer_tokens=60, ask="chat_text", timeout=30.0)
        assert backend.way == ("chat_text", 60) and backend.score(PROMPTS, LABELS).tolist() == [[-1, 0]] * len(PROMPTS)
        backend.close()
        server.requests = []
        opened(server, answer_tokens=60, ask="chat_text", timeout=30.0).score(PROMPTS, LABELS)
        assert not server.requests
        opened(server, answer_tokens=61, ask="chat_text", timeout=30.0).score(PROMPTS, LABELS)
        assert [body["max_tokens"] for body in server.requests] == [61] * (1 + len(PROMPTS)), "answers of another length were taken"
    assert answer_of("<think>a") == "" and answer_of("a</think>b") == "b" and answer_of("I think") == "I think"


@pytest.mark.parametrize("way", ["chat_first", "chat_text"])
def test_the_limit_is_called_as_the_server_calls_it(folder, opened, way):
    with FakeServer(folder, (way,)) as server:
        wanted = opened(server, file="older").score(PROMPTS, LABELS)
        server.limits, server.requests = ("max_completion_tokens",), []
        backend = opened(server, file="newer")
        np.testing.assert_array_equal(backend.score(PROMPTS, LABELS), wanted)
        offered = [body for body in server.requests if "messages" in body and bool(body.get("logprobs")) == (way == "chat_first")]
        names = [name for body in offered for name in body if name.startswith("max_")]
        assert names == ["max_tokens"] + ["max_completion_tokens"] * (1 + len(PROMPTS))
        assert len({body.get("max_tokens", body.get("max_completion_tokens")) for body in offered}) == 1
        # Where both are refused, neither is asked for again and again, and the first refusal is told.
        server.limits, server.requests = (), []
        with pytest.raises(UserError, match=f"{way}: status 400: Unsupported parameter: 'max_tokens'"):
            opened(server, file="neither", ask=way)
        assert len(server.requests) == (4 if way == "chat_first" else 2)  # two numbers of alternatives, two names


@pytest.mark.parametrize("way", ["chat_first", "text"])
def test_a_server_may_insist_on_its_own_temperature(folder, opened, way):
    with FakeServer(folder, (way,)) as server:
        first = opened(server, file="any", ask=way)
        wanted = first.score(PROMPTS, LABELS)
        assert "temperature" not in first.how
        server.temperatures, server.limits, server.requests = False, ("max_completion_tokens",), []
        backend = opened(server, file="own", ask=way)
        np.testing.assert_array_equal(backend.score(PROMPTS, LABELS), wanted)
        # The first request is refused for its temperature, the second for its limit's name, and everything after is as it should be.
        assert ["temperature" in body for body in server.requests] == [True, False, *[False] * (1 + len(PROMPTS))]
        assert all("max_completion_tokens" in body for body in server.requests[2:])
        backend.close()
        server.requests = []
        again = opened(server, file="own", ask=way)
        assert again.how.endswith("at the server's own temperature") and not server.requests


def test_faults_pass(folder, opened):
    with FakeServer(folder) as server:
        waited = []
        backend = opened(server, waited)
        wanted = backend.score(PROMPTS[:1], LABELS)
        assert not waited
        server.faults = [500, CUT, BROKEN, EMPTY, SLOW, 503, (429, "7")]
        backend.close()
        backend = opened(server, waited, "other.jsonl", ask="echo", retries=7)  # the way is asked for, in spite of all
        assert waited == [0.5, 1, 2, 4, 8, 16, 7.0]
        np.testing.assert_array_equal(backend.score(PROMPTS[:1], LABELS), wanted)
        server.faults = [(429, formatdate(usegmt=True))]  # a date that has passed
        backend.score(PROMPTS[1:2], LABELS)
        assert waited[7:] == [0.0]


def test_an_answer_that_trickles_is_timed_out(folder, opened):
    with FakeServer(folder) as server:
        server.faults = [TRICKLE]
        begun = time.monotonic()
        with pytest.raises(UserError, match="no whole answer within 1 seconds"):
            opened(server, ask="echo", retries=0)
        assert time.monotonic() - begun < 10  # all of its bytes would take longer
        server.faults, waited = [TRICKLE], []
        assert opened(server, waited, ask="echo").way == ("echo", 1) and waited == [0.5]


def test_an_endless_answer_is_given_up(folder, opened, monkeypatch):
    monkeypatch.setattr(client, "LONGEST_ANSWER", 1 << 20)
    with FakeServer(folder) as server:
        server.faults = [{"choices": [{"text": "x" * (1 << 21)}]}]
        with pytest.raises(UserError, match="an answer of more than 1 MiB"):
            opened(server, ask="echo", retries=0)


@pytest.mark.parametrize("fault", [PACKED, {"choices": [None]}, {"choices": {"a": 1}}, {"choices": ["positive"]}, (429, "nan")])
def test_garbled_answers_pass(folder, opened, fault):
    with FakeServer(folder) as server:
        waited = []
        server.faults = [fault]
        assert opened(server, waited, ask="echo").way == ("echo", 1) and waited == [0.5]


@pytest.mark.parametrize(
    "way, choice, message",
    [
        ("chat_text", {"message": "positive"}, "no text in the answer"),
        ("chat_first", {"logprobs": {"content": [{"top_logprobs": [{"token": "positive", "logprob": "low"}]}]}}, "no log-probabilities in"),
        ("first", {"logprobs": {"top_logprobs": [{"positive": "nan"}]}}, "no log-probabilities in"),
        ("echo", {"logprobs": {"tokens": ["film", " positive"], "token_logprobs": [None, "low"]}}, "no log-probabilities of the prompt"),
    ],
)
def test_answers_of_another_form_are_refused(folder, opened, way, choice, message):
    with FakeServer(folder, (way,)) as server:
        backend = opened(server, ask=way)
        server.faults = [{"choices": [choice]}]
        with pytest.raises(UserError, match=f"no longer answers as it did at first .{message}"):
            backend.score(PROMPTS[:1], LABELS)


def test_answers_under_way_are_kept_when_another_request_fails(folder, opened):
    with FakeServer(folder, ("text",)) as server:
        opened(server).close()
        server.requests, server.faults = [], [SLOW, SLOW, 404]
        with pytest.raises(UserError, match="no longer answers"):
            opened(server, parallel=3, timeout=30.0).score(PROMPTS, LABELS)
        answered, server.requests = len(server.requests) - 1, []
        opened(server, timeout=30.0).score(PROMPTS, LABELS)
        assert answered >= 2 and len(server.requests) == len(PROMPTS) - answered


@pytest.mark.parametrize(
    "fault, message",
    [
        ((400, "This model's maximum context length is 512 tokens. However, max_tokens is 8 and"), r"too long for tiny .*make config.prompt.text_words or"),
        ((400, "the request exceeds the available context size, try increasing it"), r"config.prompt.per_class \(or .answer_tokens\) smaller"),
        (413, "a prompt is too long for tiny at .* .status 413: no luck"),
        ((402, "Insufficient Balance"), "wants to be paid .status 402: Insufficient Balance.; answers so far are kept"),
    ],
)
def test_another_way_of_asking_is_no_help(folder, opened, fault, message):
    with FakeServer(folder, ("chat_text",)) as server:
        backend = opened(server, ask="chat_text", timeout=30.0)
        server.faults = [fault]
        with pytest.raises(UserError, match=message) as caught:
            backend.score(PROMPTS[:1], LABELS)
        assert "config.prompt.ask" not in str(caught.value) and len(server.requests) == 2


@pytest.mark.parametrize("key", ["right key\r\n", " right key", "right \u00c9 key", "right\nkey"])
def test_a_key_is_stripped_or_refused_and_never_shown(folder, opened, monkeypatch, key):
    monkeypatch.setenv("MY_KEY", key)
    with FakeServer(folder, ("echo",), "right key") as server:
        if key.strip() == "right key":
            assert opened(server, key_variable="MY_KEY").way == ("echo", 1)
        else:
            with pytest.raises(UserError, match="environment variable MY_KEY has characters") as caught:
                opened(server, key_variable="MY_KEY")
            assert "right" not in str(caught.value) and not server.requests


def test_a_request_that_cannot_be_sent_shows_no_header(folder, opened):
    with FakeServer(folder) as server:
        backend = opened(server, retries=0)
        backend._client._http.headers["Authorization"] = "Bearer hidden\r"
        with pytest.raises(UserError, match="a request that cannot be sent") as caught:
            backend.score(PROMPTS, LABELS)
        assert "hidden" not in str(caught.value)


@pytest.fixture
def proxied(monkeypatch):
    """proxied(**variables): the environment's proxies and certificates are these and no others."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return lambda **variables: [monkeypatch.setenv(name, value) for name, value in variables.items()]


def test_servers_elsewhere_are_asked_through_the_environment_s_proxy(folder, opened, proxied):
    with FakeServer(folder) as server:
        proxied(http_proxy=server.url.removesuffix("/v1"))
        there = opened(SimpleNamespace(url="http://models.invalid/v1"), ask="echo", retries=0, timeout=30.0)
        assert there.way == ("echo", 1) and server.requests


def test_a_server_on_this_machine_is_asked_directly(folder, opened, proxied):
    proxied(http_proxy="http://127.0.0.1:9", all_proxy="http://127.0.0.1:9", SSL_CERT_FILE="/nowhere")
    with FakeServer(folder) as server:
        assert opened(server, ask="echo", retries=0, timeout=30.0).way == ("echo", 1)
    assert all(map(is_loopback, ("localhost", "models.localhost", "127.0.0.1", "127.1.2.3", "::1", "0.0.0.0")))
    assert not any(map(is_loopback, ("example.com", "localhost.example.com", "10.0.0.1", "1.2.3", "")))


@pytest.mark.parametrize("variables", [{"SSL_CERT_FILE": "/nowhere"}, {"https_proxy": "ftp://me:hidden@proxy.invalid"}, {"https_proxy": "http://me:hidden@a:b"}])
def test_an_environment_that_cannot_be_used(opened, proxied, variables):
    proxied(**variables)
    with pytest.raises(UserError, match="cannot be asked as the environment says .*correct or unset HTTPS_PROXY") as caught:
        opened(SimpleNamespace(url="https://models.invalid/v1"))
    assert "hidden" not in str(caught.value)


def test_an_address_that_cannot_be_asked(opened):
    with pytest.raises(UserError, match="which is no address .*give one such as"):
        opened(SimpleNamespace(url="http://1.2.3.400/v1"))


def test_what_does_not_pass(folder, opened, monkeypatch):
    with FakeServer(folder, ("echo",), "right key") as server:
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        with pytest.raises(UserError, match="environment variable OPENAI_API_KEY is not set"):
            opened(server, file="a")
        monkeypatch.setenv("MY_KEY", "wrong key")
        with pytest.raises(UserError, match="MY_KEY was refused") as caught:
            opened(server, file="b", key_variable="MY_KEY")
        assert "wrong key" not in str(caught.value)
        monkeypatch.setenv("MY_KEY", "right key")
        backend = opened(server, file="c", key_variable="MY_KEY")
        server.faults = [500] * 3
        with pytest.raises(UserError, match=r"failed 3 times, the last time with status 500 \(no luck\)"):
            opened(server, file="c", key_variable="MY_KEY", retries=2).score(PROMPTS, LABELS)
        server.faults = [(429, "86400")]
        with pytest.raises(UserError, match="asks to wait for 86400 seconds"):
            backend.score(PROMPTS, LABELS)
        assert "right key" not in Path(backend._answers.path).read_text()
    with FakeServer(folder, ()) as server, pytest.raises(UserError, match="in none of the ways asked for .*echo is not offered"):
        opened(server, file="d")
    with pytest.raises(UserError, match="no connection"):  # it has gone
        opened(server, file="e", retries=1)


def test_limits_hold_over_all_starts(folder, opened):
    with FakeServer(folder) as server:
        backend = opened(server, max_requests=6)
        with pytest.raises(UserError, match="max_requests allows 6"):
            backend.score(PROMPTS, LABELS)
        assert len(server.requests) == 6
        backend.close()
        with pytest.raises(UserError, match="max_requests allows 6"):
            opened(server, max_requests=6).score(PROMPTS, LABELS)
        assert len(server.requests) == 6
        # Three to find the way, then two for each prompt; the one of a prompt that was answered by half is sent again.
        opened(server, max_requests=12).score(PROMPTS, LABELS)
        assert len(server.requests) == 3 + 2 * len(PROMPTS) + 1
        with pytest.raises(UserError, match="max_cost allows 0.0005"):
            opened(server, file="other", price_per_million=10.0, max_cost=0.0005).score(PROMPTS, LABELS)


def test_reading_answers():
    tokens, values = ["a", " film", ":", " very", " good", " x"], [None, -1.0, -2.0, -3.0, -4.0, -5.0]
    assert score_echo(tokens, values, " very good") == -7 and score_echo(tokens[:-1], values[:-1], " good") == -4
    assert score_echo(["a", ": go", "od", "x"], [None, -1.0, -2.0, 0.0], " good") == -3  # joined with the prompt's end
    scores = score_first({" pos": -1.0, "Positive": -1.0, " n": -2.0, " p": -9.0, "": -3.0}, (" positive", " negative", " post", " n"))
    np.testing.assert_allclose(scores, [-1, -10, -10, -2])


def test_a_label_that_begins_another_can_win():
    assert score_text("New York City", (" New York", " New York City")) == [-1, 0] and score_text("New York", (" New York", " New York City")) == [0, -1]
    assert score_text("Paris, not New York City", (" New York City", " Paris", " New York")) == [-1, 0, -1]
    np.testing.assert_allclose(score_first({" sci": -0.5, " scientific": -2.0}, (" Sci", " Scientific", " Sport")), [-0.5, -2, -3])
