"""What files in configs/ share: the arguments they take after the colon, and the settings behind them.

    --config=configs/sst2.py:model=distilbert-base-uncased,smoke

Arguments are names with or without a value; an unknown one is an error, never ignored.
"""

from ml_collections import ConfigDict

from ddllm.config import default_config, suggest
from ddllm.errors import UserError

ARGUMENTS = {
    "model": "hub name, local folder or 'embedded'",
    "examples": "synthetic examples per class",
    "length": "positions of texts and of synthetic examples",
    "seed": "seed of everything",
    "smoke": "a few steps on a few short texts: does everything run?",
}


def parse_argument(argument: str | None) -> dict[str, str]:
    """Arguments of a configuration as a dict; those without a value are "".

    Raises:
        UserError: an argument is unknown, or lacks or must not have a value.
    """
    given: dict[str, str] = {}
    for part in filter(None, (argument or "").split(",")):
        name, equals, value = part.partition("=")
        if name not in ARGUMENTS:
            listed = ", ".join(ARGUMENTS)
            raise UserError(f"the configuration has no argument {name!r}{suggest(name, list(ARGUMENTS))}; it takes {listed}.")
        if (name == "smoke") == bool(equals):
            raise UserError(f"the configuration's argument {name!r} {'takes no' if name == 'smoke' else 'needs a'} value.")
        given[name] = value
    return given


def apply_argument(config: ConfigDict, argument: str | None) -> ConfigDict:
    """Change a configuration by its arguments and return it; variants get working directories of their own."""
    given = parse_argument(argument)
    for name, value in given.items():
        try:
            if name == "model":
                config.model.name = value
            elif name == "examples":
                config.distill.examples_per_class = int(value)
            elif name == "length":
                config.data.length = config.distill.length = int(value)
            elif name == "seed":
                config.seed = int(value)
        except ValueError:
            raise UserError(f"the configuration's argument {name!r} is {value!r}, which is not a whole number.") from None
    if "smoke" in given:
        make_smoke(config)
    for name, value in given.items():
        config.name += f"-{name}" if not value else f"-{value.rstrip('/').split('/')[-1]}" if name == "model" else f"-{name}{value}"
    return config


def paper_config(name: str) -> ConfigDict:
    """The published recipe's shape (Maekawa et al., ACL 2023): 512 positions from noise, one inner step, redrawn heads, on BERT base."""
    config = default_config()
    config.name = name
    return config


def make_smoke(config: ConfigDict) -> None:
    """Shrink a configuration so that all its stages run within a minute or two; its figures mean nothing."""
    config.data.length = min(config.data.length, 32)
    config.data.limit_train, config.data.limit_validation, config.data.limit_test = 256, 64, 64
    config.distill.length = min(config.distill.length, 16)
    config.distill.outer_steps, config.distill.validate_every, config.distill.checkpoint_every = 4, 2, 2
    config.distill.batch_size = config.finetune.batch_size = 8
    config.finetune.epochs = 0.25
    config.finetune.validations = config.finetune.checkpoints = config.finetune.seeds = 1
    config.evaluate.heads, config.evaluate.random_draws, config.evaluate.tuning_texts = 2, 2, 32
    config.evaluate.random_rates = config.evaluate.adam_rates = (1e-2,)
    config.evaluate.variation_draws, config.evaluate.submission_passes = 2, (1,)
