"""Requests to an OpenAI-compatible server: tried again after what passes, never more than was allowed, and with clear words for the rest.

Tried again with back-off: 408, 409, 425, 429 and every 5xx (as long as Retry-After asks for, where it is given), time-outs, dropped connections, and answers
that are no JSON or hold no choices. Newer chat models call the limit of the answer by another name than older ones, and some take no temperature but their
own: what a server refuses is put in the other way, once (`Dialect`). The key comes from the environment and goes nowhere but into the request's header.
Proxies and certificates are the environment's, but servers on this machine are asked directly.
"""

import ipaddress
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from ddllm.errors import UserError
from ddllm.prompt.cache import Answers, key_of
from ddllm.prompt.dialect import LIMIT, NEWER_LIMIT, TEMPERATURE, Dialect, Refused, WordRefused
from ddllm.prompt.responses import count_tokens, has_choice, is_too_long, read_message, read_wait

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds of back-off
PATIENCE = 300.0  # longest that a server may ask to wait
PASSING = (408, 409, 425, 429)
CHARACTERS = 3.0  # of a token, at least, where a request's cost has to be guessed
LONGEST_ANSWER = 1 << 26  # bytes


@dataclass(frozen=True)
class Limits:
    """How much may be asked for, in all starts together.

    Attributes:
        requests: most requests.
        price: of a million tokens.
        cost: most to spend; 0: no limit.
    """

    requests: int
    price: float
    cost: float


class Client:
    """Posts JSON to one server; may be used by several threads.

    Args:
        prompt: config.prompt.
        answers: where what is spent is kept.
        sleep: waits so many seconds; left out, until then or until `stop`.

    Raises:
        UserError: the key or the address cannot be meant; and from `post`, when the server cannot be reached, refuses the key, wants money, finds a prompt
            too long, is never done, or limits are reached.
    """

    def __init__(self, prompt: ConfigDict, answers: Answers, sleep: Callable[[float], Any] | None = None):
        import httpx2

        self._url, self._retries, self._variable, self._timeout = prompt.base_url.rstrip("/"), prompt.retries, prompt.key_variable, prompt.timeout
        self._limits = Limits(prompt.max_requests, prompt.price_per_million, prompt.max_cost)
        self._stopped = threading.Event()
        self._answers, self._sleep = answers, sleep or self._stopped.wait
        self._lock = threading.Lock()
        self._open_requests, self._open_tokens = 0, 0.0
        try:
            host = httpx2.URL(self._url).host
        except httpx2.InvalidURL as error:
            raise UserError(f"config.prompt.base_url is {self._url!r}, which is no address ({error}); give one such as http://127.0.0.1:8000/v1.") from None
        key = read_key(self._variable)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            self._http = httpx2.Client(headers=headers, timeout=prompt.timeout, trust_env=not is_loopback(host), follow_redirects=False)
        except (OSError, ValueError, ImportError, httpx2.InvalidURL) as error:  # whose words may hold a proxy's password
            raise UserError(
                f"{self._url} cannot be asked as the environment says ({type(error).__name__}); correct or unset HTTPS_PROXY, ALL_PROXY, NO_PROXY, "
                "SSL_CERT_FILE and SSL_CERT_DIR, of which one names no proxy that can be used, or no file of certificates."
            ) from None

    def stop(self) -> None:
        """Let no request be tried again, and nobody wait any longer."""
        self._stopped.set()

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """What the server answers to a request, which has "choices".

        Args:
            path: below the server's address.
            body: the request; its "max_tokens" and "temperature" are sent as the server accepts them.

        Raises:
            Refused: it does not offer that.
            UserError: see above.
        """
        guess = len(str(body.get("prompt") or body.get("messages"))) / CHARACTERS + body.get(LIMIT, 1)
        failed, model = 0, str(body.get("model"))
        known = self.dialect(path, model)
        dialect = known
        refusals: dict[Dialect, WordRefused] = {}
        while True:
            self._reserve(guess)
            spent = 0
            try:
                answer, wait, trouble = self._try(path, dialect.put(body))
                spent = count_tokens(answer, guess) if answer is not None else 0
            except WordRefused as error:
                refusals[dialect] = error
                dialect = dialect.without(error.word)
                if dialect in refusals:  # it is about something else
                    raise next(iter(refusals.values())) from None
                continue
            finally:
                self._settle(guess, spent)
            if answer is not None:
                if dialect != known:
                    self._answers.put(self._dialect_key(path, model), list(dialect))
                return answer
            failed += 1
            if failed > self._retries or self._stopped.is_set():
                raise UserError(
                    f"{self._url}/{path} failed {failed} times, the last time with {trouble}; answers so far are kept, start the same command again later "
                    "(see config.prompt.retries, .timeout and .parallel)."
                )
            if wait is not None and wait > PATIENCE:
                raise UserError(f"{self._url} asks to wait for {wait:.0f} seconds ({trouble}); answers so far are kept, start the same command again then.")
            self._sleep(wait if wait is not None else min(FIRST_WAIT * 2 ** (failed - 1), LONGEST_WAIT))

    def dialect(self, path: str, model: str) -> Dialect:
        """How a model wants to be asked, as far as is known."""
        known = self._answers.get(self._dialect_key(path, model))
        return Dialect(*known) if known else Dialect()

    def _dialect_key(self, path: str, model: str) -> str:
        return key_of("dialect", self._url, model, path)

    def close(self) -> None:
        self._http.close()

    def _try(self, path: str, body: dict[str, Any]) -> tuple[Any, float | None, str]:
        """The answer, or None with the seconds to wait (None: as usual) and what went wrong."""
        import httpx2

        try:
            response = self._fetch(path, body)
        except httpx2.ConnectError as error:
            return None, None, f"no connection ({error})"
        except httpx2.TimeoutException:
            return None, None, f"no whole answer within {self._timeout:g} seconds"
        except httpx2.LocalProtocolError:  # whose words may hold the header with the key
            return None, None, "a request that cannot be sent"
        except httpx2.DecodingError:
            return None, None, "an answer that cannot be unpacked"
        except httpx2.TransportError as error:
            return None, None, f"a dropped connection ({error or type(error).__name__})"
        if response is None:
            return None, None, f"an answer of more than {LONGEST_ANSWER >> 20} MiB"
        status = response.status_code
        if status in PASSING or status >= 500 and status != 501:
            return None, read_wait(response.headers.get("retry-after")), f"status {status} ({read_message(response)})"
        if status in (401, 403):
            has = "was refused" if "Authorization" in self._http.headers else "is not set"
            raise UserError(f"{self._url} wants a key (status {status}), and the one in the environment variable {self._variable or '(none)'} {has}; set it.")
        message = read_message(response)
        if status == 402:
            raise UserError(f"{self._url} wants to be paid (status 402: {message}); answers so far are kept, start the same command again when it has been.")
        if status == 413 or status in (400, 422) and is_too_long(response):
            also = " (or .answer_tokens)" if body.get(LIMIT, body.get(NEWER_LIMIT, 1)) > 1 else ""
            raise UserError(
                f"a prompt is too long for {body.get('model')} at {self._url} (status {status}: {message}); make config.prompt.text_words or "
                f"config.prompt.per_class{also} smaller."
            )
        if status >= 300:
            said, words = f"status {status}: {message}", [word for word in (LIMIT, NEWER_LIMIT, TEMPERATURE) if word in message and word in body]
            raise WordRefused(said, words[0]) if words and status in (400, 422) else Refused(said)
        try:
            answer = response.json()
        except ValueError:
            return None, None, "an answer that is no JSON"
        return (answer, None, "") if has_choice(answer) else (None, None, "an answer without choices")

    def _fetch(self, path: str, body: dict[str, Any]) -> Any:
        """The whole response, or None where it is longer than any that is meant.

        Raises:
            httpx2.TimeoutException: it is not there in time, all its parts together.
        """
        import httpx2

        until, content = time.monotonic() + self._timeout, bytearray()
        with self._http.stream("POST", f"{self._url}/{path}", json=body) as response:
            # As it comes: of packed parts some are nothing yet when they are unpacked.
            for part in response.iter_raw():
                content += part
                if time.monotonic() > until:
                    raise httpx2.ReadTimeout("the answer comes too slowly", request=response.request)
                if len(content) > LONGEST_ANSWER:
                    return None
        return httpx2.Response(response.status_code, headers=response.headers, content=bytes(content))

    def _reserve(self, tokens: float) -> None:
        """Count a request before it is sent.

        Raises:
            UserError: it would be one too many, or too dear.
        """
        limits = self._limits
        with self._lock:
            requests = self._answers.requests + self._open_requests
            if requests + 1 > limits.requests:
                raise UserError(
                    f"{requests} requests were sent, and config.prompt.max_requests allows {limits.requests}; answers so far are kept, raise it to go on."
                )
            cost = limits.price * (self._answers.tokens + self._open_tokens + tokens) / 1e6
            if limits.cost and cost > limits.cost:
                raise UserError(
                    f"the next request would bring the cost to {cost:.4g}, and config.prompt.max_cost allows {limits.cost:g}; answers so far are kept, "
                    "raise it to go on."
                )
            self._open_requests += 1
            self._open_tokens += tokens

    def _settle(self, reserved: float, tokens: int) -> None:
        """Count a request that has been sent, with what it took in place of what was reserved."""
        with self._lock:
            self._open_requests -= 1
            self._open_tokens -= reserved
            self._answers.spend(1, tokens)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, which no proxy leads to."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def read_key(variable: str) -> str:
    """The key in an environment variable without blanks and line ends around it; empty where there is none, or no variable.

    Raises:
        UserError: it cannot stand in a header.
    """
    key = os.environ.get(variable, "").strip() if variable else ""
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"the key in the environment variable {variable} has characters that no key has (not printable ASCII); set it again.")
    return key
