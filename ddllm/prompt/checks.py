"""Which values of config.prompt can be meant."""

from pathlib import PurePath
from string import Formatter
from urllib.parse import urlsplit

from ml_collections import ConfigDict

from ddllm.errors import UserError
from ddllm.values import check_choice, check_choices, check_not_negative, check_positive, named

POSITIVE = (
    "batch_size",
    "seeds",
    "orders",
    "answer_tokens",
    "parallel",
    "timeout",
    "max_requests",
    "soft_steps",
    "soft_rate",
    "soft_batch_size",
    "soft_seeds",
    "soft_validation_texts",
    "soft_validations",
)
NOT_NEGATIVE = ("text_words", "texts", "seed", "retries", "price_per_million", "max_cost", "soft_tokens")
ASK = ("auto", "echo", "first", "chat_first", "text", "chat_text")
OWN, ROUTES = "distilled", "text"
FIELDS = ("text", "pair", "label")


def validate_prompt(prompt: ConfigDict) -> None:
    """Raise `UserError` for the first value that cannot be meant."""
    check_positive(named("prompt", prompt, POSITIVE))
    check_not_negative(named("prompt", prompt, NOT_NEGATIVE))
    check_choice("prompt.ask", prompt.ask, ASK)
    if not all(isinstance(count, int) and count > 0 for count in prompt.per_class):
        raise UserError(f"config.prompt.per_class is {tuple(prompt.per_class)}, but must have whole numbers greater than 0, as in '(1,2)'.")
    _validate_examples(prompt)
    check_template(prompt.template)
    if len(set(prompt.label_words)) < len(prompt.label_words) or not all(str(word).strip() for word in prompt.label_words):
        raise UserError(f"config.prompt.label_words is {tuple(prompt.label_words)}; every class needs a word of its own.")
    _validate_server(prompt)


def check_template(template: str) -> None:
    """Raise `UserError` unless a template (empty: the default one) has {text} and ends with {label}."""
    if not template:
        return
    try:
        parts = [(name, how, spec) for _, name, spec, how in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise UserError(f"config.prompt.template is {template!r}, which is not a template ({error}); write {{{{ for a brace.") from None
    fields = [name for name, _, _ in parts]
    if formatted := [name for name, how, spec in parts if how or spec]:
        raise UserError(f"config.prompt.template formats {{{formatted[0]}}} (with : or !), but everything there is text; write {{{formatted[0]}}} alone.")
    unknown = [name for name in fields if name not in FIELDS]
    if unknown:
        raise UserError(f"config.prompt.template has {{{unknown[0]}}}; what can stand in braces is {{text}}, {{pair}} and {{label}}.")
    if fields.count("label") != 1 or not template.endswith("{label}") or "text" not in fields:
        raise UserError(f"config.prompt.template is {template!r}, but must have {{text}} and end with {{label}}, which the model is to go on with.")


def _validate_examples(prompt: ConfigDict) -> None:
    from ddllm.checks import SELECTIONS

    if not prompt.model:
        raise UserError("config.prompt.model is empty; give a hub name, a folder, a GGUF file or 'embedded'.")
    names = [name for name in prompt.examples if not PurePath(name).suffix]
    check_choices("prompt.examples", names, (OWN, ROUTES, *SELECTIONS), ", or files of texts and labels")
    if len(set(prompt.examples)) < len(prompt.examples):
        raise UserError("config.prompt.examples has a name twice; name each once.")


def _validate_server(prompt: ConfigDict) -> None:
    if prompt.max_cost and not prompt.price_per_million:
        raise UserError("config.prompt.max_cost needs a price to count by; set config.prompt.price_per_million.")
    if not prompt.base_url:
        return
    good, secret = False, "@" in prompt.base_url
    try:
        parts = urlsplit(prompt.base_url)
        secret = parts.username is not None or parts.password is not None or bool(parts.query)
        # What is no port and what is no name of a host raise ValueError.
        good = parts.scheme in ("http", "https") and bool((parts.hostname or "").encode("idna")) and parts.port != 0
    except ValueError:
        pass
    if secret:  # The address is written into results, and into the message below.
        raise UserError("config.prompt.base_url must hold no user, password or query; a key belongs in the environment (config.prompt.key_variable).")
    if not good:
        raise UserError(f"config.prompt.base_url is {prompt.base_url!r}, which is no address; give one such as http://127.0.0.1:8000/v1.")
    if prompt.soft_tokens:
        raise UserError("config.prompt.soft_tokens asks for a soft prompt, which no server takes; set it to 0 or leave config.prompt.base_url empty.")
    if prompt.model == "embedded":
        raise UserError("config.prompt.model is 'embedded', but with config.prompt.base_url it must be the name that the server knows the model by.")
