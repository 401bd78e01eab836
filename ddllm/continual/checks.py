"""Which values of config.continual can be meant; `validate` calls it."""

from ml_collections import ConfigDict

from ddllm.artefact.schema import STORAGES
from ddllm.config import suggest
from ddllm.errors import UserError

METHODS = ("finetune", "ewc", "random", "herding", "distilled", "recipe", "update", "joint")
TOKENS = "tokens"  # what is stored are texts: real ones, of which labels and rates alone are learned
STORAGE = (*STORAGES, TOKENS)
WAYS = ("concatenate", "interleave", "join")


def validate_continual(continual: ConfigDict) -> None:
    """Raise `UserError` for the first value that cannot be meant."""
    for key, known in (("storage", STORAGE), ("way", WAYS)):
        if continual[key] not in known:
            raise UserError(
                f"config.continual.{key} is {continual[key]!r}{suggest(str(continual[key]), known)}; it must be one of {', '.join(known)}."
            )
    for method in continual.methods:
        if method not in METHODS:
            raise UserError(f"config.continual.methods has {method!r}{suggest(str(method), METHODS)}; it may have {', '.join(METHODS)}.")
    if not continual.methods:
        raise UserError(f"config.continual.methods is empty; name some of {', '.join(METHODS)}.")
    for key in ("memory", "fisher_texts", "seeds", "ewc"):
        if not continual[key] > 0:
            raise UserError(f"config.continual.{key} is {continual[key]!r}, but must be greater than 0.")
    if continual.relearn_steps < 0:
        raise UserError(f"config.continual.relearn_steps is {continual.relearn_steps!r}, but must not be negative.")
    if not 0 < continual.replay < 1:
        raise UserError(f"config.continual.replay is {continual.replay!r}, but must lie between 0 and 1.")
