"""Which values of config.continual can be meant; `validate` calls it."""

from ml_collections import ConfigDict

from ddllm.artefact.schema import STORAGES
from ddllm.errors import UserError
from ddllm.merge.checks import WAYS
from ddllm.values import check_choice, check_choices, check_not_negative, check_positive, named

METHODS = ("finetune", "ewc", "random", "herding", "random_alone", "herding_alone", "distilled", "recipe", "update", "joint")
TOKENS = "tokens"  # what is stored are texts: real ones, of which labels and rates alone are learned
STORAGE = (*STORAGES, TOKENS)


def validate_continual(continual: ConfigDict) -> None:
    """Raise `UserError` for the first value that cannot be meant."""
    for key, known in (("storage", STORAGE), ("way", WAYS)):
        check_choice(f"continual.{key}", continual[key], known)
    check_choices("continual.methods", continual.methods, METHODS)
    if not continual.methods:
        raise UserError(f"config.continual.methods is empty; name some of {', '.join(METHODS)}.")
    check_positive(named("continual", continual, ("memory", "fisher_texts", "seeds", "ewc")))
    check_not_negative(named("continual", continual, ("relearn_steps",)))
    if not 0 < continual.replay < 1:
        raise UserError(f"config.continual.replay is {continual.replay!r}, but must lie between 0 and 1.")
