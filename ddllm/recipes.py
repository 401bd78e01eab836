"""What files in configs/ share: the arguments they take after the colon, and the recipes and scales behind them.

    --config=configs/sst2.py:model=distilbert-base-uncased,recipe=maekawa2023,smoke

Arguments are names with or without a value; an unknown one is an error, never ignored. A recipe says how is distilled, never how much: examples,
lengths, outer steps and real batches are the same for all of them, so that they can be compared.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from ddllm.config import default_config, suggest
from ddllm.errors import UserError

ARGUMENTS = {
    "model": "hub name, local folder or 'embedded'",
    "recipe": "how is distilled: ddllm, maekawa2023 or sucholutsky",
    "examples": "synthetic examples per class, in as many inner batches where the configuration's do not divide them",
    "length": "positions of texts and of synthetic examples",
    "seed": "seed of everything",
    "smoke": "a few steps on a few short texts: does everything run?",
}


def ddllm(distill: ConfigDict) -> None:
    """Ours: all examples twice, from a head of zeros that the first step sets.

    Each array has rates of its own and each channel of a kernel a gain, labels reach every layer directly, the outer loss follows briefly fine-tuned
    teachers on real texts, half of them crossed, and the running average of what is learned is kept, the latest that a validation does not tell from the best.
    """
    distill.batches = 1
    distill.passes = 2
    distill.direction_labels = True
    distill.rate_directions = 3e-4
    distill.labels = "unrestricted"
    distill.initial = "real"
    distill.head = "zero"
    distill.rates = "tensor"  # kernels want rates ten times those of biases
    distill.gains = True
    distill.word_scores = True
    distill.initial_rate = 0.05
    distill.teacher = "brief"
    distill.crossed = 0.5  # long runs would learn the training texts by heart
    distill.optimizer = "adam"
    distill.second_moment = 0.99
    distill.rate_embeddings = distill.rate_labels = 1e-2
    distill.rate_rates = 5e-2
    distill.decay = "cosine"
    distill.warmup = 0.05
    distill.average = 0.98  # single outer steps are noisy
    distill.choose = "one_standard_error"  # so are validations
    distill.clip = 0.0
    distill.adaptive_clip = 2.0


def maekawa2023(distill: ConfigDict) -> None:
    """Maekawa et al., ACL 2023, with labels for the attention of the first position: one step for each example of a class, redrawn heads.

    Their public configuration searches over the inner rate at the start and the outer rate; these are the middle ones.
    """
    distill.batches = distill.examples_per_class
    distill.passes = 1
    distill.labels = "unrestricted"
    distill.initial = "normal"
    distill.head = "redrawn"
    distill.rates = "step"
    distill.initial_rate = 1e-2
    distill.attention_labels = "cls"
    distill.attention_initial = "noise"
    distill.attention_weight = 100.0
    distill.optimizer = "adamw"
    distill.rate_embeddings = distill.rate_labels = distill.rate_rates = distill.rate_attention = 1e-2
    distill.decay = "linear"
    distill.warmup = 0.1
    distill.clip = 1.0


def sucholutsky(distill: ConfigDict) -> None:
    """Sucholutsky and Schonlau (arXiv 1910.02551), as their public command for IMDB has it: soft labels, all examples in one step, five times."""
    distill.batches = 1
    distill.passes = 5
    distill.labels = "soft"
    distill.initial = "normal"
    distill.head = "redrawn"
    distill.rates = "step"
    distill.initial_rate = 1e-2
    distill.optimizer = "adam"
    distill.rate_embeddings = distill.rate_labels = distill.rate_rates = 1e-2
    distill.decay = "linear"  # theirs halves the rate every ten epochs
    distill.warmup = 0.0
    distill.clip = 0.0


RECIPES: dict[str, Callable[[ConfigDict], None]] = {"ddllm": ddllm, "maekawa2023": maekawa2023, "sucholutsky": sucholutsky}


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
    if given.get("recipe", "ddllm") not in RECIPES:
        raise UserError(
            f"there is no recipe {given['recipe']!r}{suggest(given['recipe'], list(RECIPES))}; the recipes are {', '.join(RECIPES)}."
        )
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
                if int(value) > 0 and int(value) % config.distill.batches:
                    config.distill.batches = int(value)  # one of each class in an inner batch; other recipes say it themselves
            elif name == "length":
                config.data.length = config.distill.length = int(value)
            elif name == "seed":
                config.seed = int(value)
        except ValueError:
            raise UserError(f"the configuration's argument {name!r} is {value!r}, which is not a whole number.") from None
    if "recipe" in given:
        reset_recipe(config)
        RECIPES[given["recipe"]](config.distill)
    if "smoke" in given:
        make_smoke(config)
    for name, value in given.items():
        config.name += (
            f"-{name}" if not value else f"-{value.rstrip('/').split('/')[-1]}" if name in ("model", "recipe") else f"-{name}{value}"
        )
    return config


def reset_recipe(config: ConfigDict) -> None:
    """Put back the defaults of everything that a recipe decides."""
    fresh = default_config().distill
    for key in fresh:
        if key not in AMOUNTS:
            config.distill[key] = fresh[key]


# Keys of config.distill that recipes leave alone: how much is learned, for how long, and what does not change a result.
AMOUNTS = (
    *("examples_per_class", "length", "outer_steps", "batch_size", "balanced", "storage"),
    *("gradient", "segments", "offload"),
    *("validate_every", "validation_texts", "validation_heads", "checkpoint_every", "checkpoints_kept"),
)


def data_set_config(name: str, length: int, small_length: int, argument: str | None, small_steps: int = 900) -> ConfigDict:
    """A data set's configuration, of the size that its model asks for.

    Args:
        name: of the run.
        length: positions of texts and of synthetic examples, on an encoder of BERT base's kind.
        small_length: positions of texts on the embedded encoder.
        argument: what stands after the colon; arguments are applied later, by `apply_argument`, but for the model, which decides the size.
        small_steps: outer steps on the embedded encoder (docs/TRIALS.md, "Longer runs" and "Word scores").
    """
    config = default_config()
    config.name = name
    config.data.length = config.distill.length = length
    ddllm(config.distill)
    if parse_argument(argument).get("model") == "embedded":
        make_small(config, small_length, small_steps)
    return config


def make_small(config: ConfigDict, length: int, steps: int) -> None:
    """Sizes for MiniLM on two cores: some minutes for each stage."""
    config.model.head = "mean"
    config.data.length = length
    config.data.limit_train = 12_000
    config.data.limit_validation = 1_000
    config.data.limit_test = 4_000
    distill = config.distill
    distill.length = 32
    distill.outer_steps = steps
    distill.batch_size = 32
    distill.validate_every = 100
    distill.checkpoint_every = 50
    config.finetune.rate = 1e-4
    config.evaluate.heads = 5
    config.evaluate.head_texts = 500
    config.evaluate.tuning_texts = 300


def make_smoke(config: ConfigDict) -> None:
    """Shrink a configuration so that all its stages run within a minute or two; its figures mean nothing."""
    config.data.length = min(config.data.length, 32)
    config.data.limit_train, config.data.limit_validation, config.data.limit_test = 256, 64, 64
    config.distill.length = min(config.distill.length, 16)
    config.distill.outer_steps, config.distill.validate_every, config.distill.checkpoint_every = 4, 2, 2
    config.distill.batch_size = config.finetune.batch_size = 8
    config.finetune.epochs = config.distill.brief_epochs = 0.25
    config.finetune.validations = config.finetune.checkpoints = config.finetune.seeds = 1
    config.evaluate.heads, config.evaluate.selection_draws, config.evaluate.tuning_texts = 2, 2, 32
    config.evaluate.selection_rates, config.evaluate.selection_passes = (1e-2,), (1,)
    config.evaluate.adam_rates = (1e-2,)
    config.evaluate.variation_draws = 2
