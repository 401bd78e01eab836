"""Which values of the configuration can be meant: checked once, before anything runs, so that a mistake costs a second and not an hour."""

import math
from pathlib import PurePath
from typing import Any

from ml_collections import ConfigDict

from ddllm.artefact.schema import STORAGES
from ddllm.config import default_config, flatten
from ddllm.continual.checks import validate_continual
from ddllm.errors import UserError
from ddllm.merge.checks import validate_merge
from ddllm.privacy.checks import validate_privacy
from ddllm.text.checks import validate_text
from ddllm.values import check_choice, check_choices, check_not_negative, check_positive, split_parts

POSITIVE = (
    "data.length",
    "distill.examples_per_class",
    "distill.batches",
    "distill.passes",
    "distill.length",
    "distill.segments",
    "distill.heads",
    "distill.pool_steps",
    "distill.outer_steps",
    "distill.batch_size",
    "distill.brief_teachers",
    "distill.brief_epochs",
    "distill.validate_every",
    "distill.validation_heads",
    "distill.checkpoint_every",
    "distill.checkpoints_kept",
    "distill.initial_rate",
    "distill.rate_embeddings",
    "distill.attention_weight",
    "distill.feature_weight",
    "finetune.epochs",
    "finetune.batch_size",
    "finetune.rate",
    "finetune.validations",
    "finetune.checkpoints",
    "finetune.seeds",
    "evaluate.heads",
    "evaluate.selection_draws",
    "evaluate.tuning_texts",
    "evaluate.batch_size",
    "evaluate.variation_draws",
    "evaluate.submission_batch",
    "report.texts",
    "report.tokens",
    "model.head_deviation",
    "runtime.join_timeout",
    "runtime.silence_timeout",
    "runtime.shard",
)

NOT_NEGATIVE = (
    "runtime.tokens_at_once",
    "seed",
    "data.seed",
    "data.limit_train",
    "data.limit_validation",
    "data.limit_test",
    "data.validation_size",
    "data.test_size",
    "distill.rate_labels",
    "distill.rate_rates",
    "distill.rate_head",
    "distill.rate_order",
    "distill.rate_attention",
    "distill.rate_features",
    "distill.rate_directions",
    "distill.rate_gains",
    "distill.rate_words",
    "distill.truncate",
    "distill.pool",
    "distill.weight_decay",
    "distill.warmup",
    "distill.curriculum",
    "distill.clip",
    "distill.adaptive_clip",
    "distill.average",
    "distill.second_moment",
    "distill.validation_texts",
    "distill.probe_texts",
    "finetune.weight_decay",
    "finetune.warmup",
    "finetune.clip",
    "evaluate.head_texts",
    "report.examples",
    "report.map_texts",
    "runtime.devices",
    "runtime.processes",
)

SEEDS = ("seed", "data.seed", "prompt.seed")
LARGEST_SEED = 2**31 - 1  # JAX's generator reads 32 bits, and some draws have a seed a little above the configuration's

ROBUST = ("rates", "positions", "order", "passes", "examples")
CHOICES = {
    "model.head": ("auto", "bert", "roberta", "distilbert", "mpnet", "mean"),
    "model.products": ("float32", "tensorfloat32", "bfloat16"),
    "data.task": ("auto", "classification", "regression", "multilabel"),
    "distill.labels": ("hard", "soft", "unrestricted"),
    "distill.attention_labels": ("none", "cls", "all"),
    "distill.attention_initial": ("model", "noise"),
    "distill.initial_labels": ("class", "model"),
    "distill.head": ("redrawn", "fixed", "zero", "learned"),
    "distill.rates": ("step", "layer", "tensor"),
    "distill.order": ("fixed", "shuffled", "learned"),
    "distill.window": ("last", "random"),
    "distill.gradient": ("direct", "checkpointed", "mixed"),
    "distill.optimizer": ("adamw", "adam"),
    "distill.storage": STORAGES,
    "distill.decay": ("linear", "cosine", "constant"),
    "distill.choose": ("best", "one_standard_error"),
    "evaluate.metric": ("auto", "accuracy", "f1_macro", "f1_micro", "pearson", "spearman"),
    "runtime.distributed": ("auto", "off"),
}


SELECTIONS = ("random", "k_centers", "herding", "k_means", "gradient_norm")
INITIAL = ("noise", "normal", "real", *SELECTIONS[1:])


def validate(config: ConfigDict) -> None:
    """Raise `UserError` for the first value that cannot be meant."""
    _validate_types(config)
    check_positive({key: _get(config, key) for key in POSITIVE})
    check_not_negative({key: _get(config, key) for key in NOT_NEGATIVE})
    for key in SEEDS:
        if _get(config, key) > LARGEST_SEED:
            raise UserError(f"config.{key} is {_get(config, key)}, but seeds must be at most {LARGEST_SEED}.")
    for key, choices in CHOICES.items():
        check_choice(key, _get(config, key), choices)
    distill = config.distill
    if distill.examples_per_class % distill.batches:
        raise UserError(
            f"config.distill.batches is {distill.batches}, which does not divide config.distill.examples_per_class="
            f"{distill.examples_per_class}; every inner batch needs the same number of examples of every class."
        )
    if distill.heads > 1 and distill.head != "redrawn":
        raise UserError(
            f"config.distill.heads is {distill.heads}, but config.distill.head={distill.head} is the same head every time; "
            "set config.distill.heads to 1 or config.distill.head to redrawn."
        )
    if distill.head != "learned" and (distill.probe_texts or distill.initial_labels == "model"):
        key = "probe_texts" if distill.probe_texts else "initial_labels"
        raise UserError(f"config.distill.{key} is about a learned head, but config.distill.head is {distill.head!r}; make it learned.")
    if distill.labels == "hard" and distill.initial_labels == "model":
        raise UserError(
            "config.distill.initial_labels is 'model', but config.distill.labels is 'hard'; hard labels are those of the class."
        )
    teachers = split_parts(distill.teacher)
    if len(set(teachers)) < len(teachers):
        raise UserError(f"config.distill.teacher is {distill.teacher!r}; name each run once.")
    if not 0 <= distill.teacher_share <= 1:
        raise UserError(f"config.distill.teacher_share is {distill.teacher_share!r}, but must lie between 0 and 1.")
    if not 0 <= distill.crossed <= 1:
        raise UserError(f"config.distill.crossed is {distill.crossed!r}, but must lie between 0 and 1.")
    if distill.crossed and teachers and distill.teacher_share < 1:
        raise UserError(
            f"config.distill.teacher_share is {distill.teacher_share!r}, but crossed texts have no label; set it to 1, or config.distill.crossed to 0."
        )
    if not PurePath(distill.initial).suffix:
        check_choice("distill.initial", distill.initial, INITIAL, ", or a file with text and label")
    validate_inner_loop(distill)
    if 0 < distill.adaptive_clip <= 1:
        raise UserError(
            f"config.distill.adaptive_clip is {distill.adaptive_clip!r}, which would clip every usual gradient; make it greater than 1, or 0 for none."
        )
    if distill.weight_decay and distill.optimizer == "adam":
        raise UserError(
            f"config.distill.weight_decay is {distill.weight_decay!r}, but config.distill.optimizer=adam decays nothing; "
            "set config.distill.optimizer to adamw or config.distill.weight_decay to 0."
        )
    if distill.average >= 1 or distill.second_moment >= 1 or distill.curriculum >= 1 or distill.warmup > 1 or config.finetune.warmup > 1:
        raise UserError(
            "config.distill.average, config.distill.second_moment and config.distill.curriculum must be below 1, and both warmup values at most 1."
        )
    _validate_selections(config.evaluate)
    from ddllm.prompt.checks import validate_prompt  # needs the names of this module

    validate_prompt(config.prompt)
    validate_merge(config.merge)
    validate_continual(config.continual)
    validate_privacy(config.privacy)
    validate_text(config.text, distill.examples_per_class)


def _validate_types(config: ConfigDict) -> None:
    """Raise `UserError` for a number that is not finite, and for lists of something else than they are for: the type of what they have by default, or names."""
    usual = flatten(default_config())
    for key, value in flatten(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"config.{key} is {value!r}, but must be a number that is finite.")
        if not isinstance(value, tuple):
            continue
        wanted = type(usual[key][0]) if usual[key] else str
        for each in value:
            number = isinstance(each, (int, float)) and not isinstance(each, bool) and math.isfinite(each)
            if not (isinstance(each, wanted) or (wanted is float and number)):
                what, example = {str: ("names in quotation marks", "('a','b')"), int: ("whole numbers", "(1,2)")}.get(wanted, ("numbers", "(0.1,0.2)"))
                raise UserError(f"config.{key} has {each!r}, but must have {what}, as in \"{example}\".")
    for key in ("data.label_names", "data.label_columns"):
        value = _get(config, key)
        if len(set(value)) < len(value) or (len(value) == 1 and "," in value[0]):
            raise UserError(f"config.{key} is {value!r}, but must have each name once, in quotation marks, as in \"('a','b')\".")


def _validate_selections(evaluate: ConfigDict) -> None:
    check_choices("evaluate.selections", evaluate.selections, SELECTIONS, ", as in \"('random','k_centers')\"")
    if not evaluate.selection_rates or min(evaluate.selection_rates) <= 0:
        raise UserError("config.evaluate.selection_rates needs at least one rate, and rates must be greater than 0.")
    if not evaluate.adam_rates or min(evaluate.adam_rates) <= 0:
        raise UserError("config.evaluate.adam_rates needs at least one rate, and rates must be greater than 0.")
    if evaluate.short_finetunings and min(evaluate.short_finetunings) <= 0:
        raise UserError("config.evaluate.short_finetunings has shares of config.finetune.epochs, which must be greater than 0.")
    if len(set(evaluate.short_finetunings)) < len(evaluate.short_finetunings):
        raise UserError(f"config.evaluate.short_finetunings is {evaluate.short_finetunings!r}; name each share once.")
    if not evaluate.selection_passes or min(evaluate.selection_passes) <= 0:
        raise UserError("config.evaluate.selection_passes needs at least one number of passes, and they must be greater than 0.")


def validate_inner_loop(distill: ConfigDict) -> None:
    """Raise `UserError` for values of config.distill that do not fit the number of its inner steps."""
    steps = distill.batches * distill.passes
    reached, what = distill.truncate or steps, "steps of config.distill.truncate" if distill.truncate else "inner steps (batches x passes)"
    if distill.truncate > steps:
        raise UserError(f"config.distill.truncate is {distill.truncate}, but there are only {steps} inner steps (batches x passes).")
    if reached % distill.segments:
        raise UserError(f"config.distill.segments is {distill.segments}, which does not divide the {reached} {what}.")
    if distill.offload and distill.gradient == "direct" and distill.segments == 1:
        raise UserError(
            "config.distill.offload puts parameters into the host's memory, but config.distill.gradient=direct keeps the activations of all steps on the "
            "device; use config.distill.gradient=mixed or checkpointed."
        )
    if distill.window == "random" and not distill.truncate:
        raise UserError("config.distill.window is 'random', but no window is set; say how many steps it has with config.distill.truncate.")
    if distill.window == "last" and reached < steps:
        if distill.order == "fixed" and reached < distill.batches:
            raise UserError(
                f"config.distill.truncate is {reached}, so that {distill.batches - reached} of the {distill.batches} inner batches would never "
                "be learned; make it config.distill.batches or more, or use config.distill.window=random or another config.distill.order."
            )
        if distill.head == "learned":
            raise UserError(
                "config.distill.head is 'learned', but the last inner steps alone do not reach the head that training starts from; "
                "set config.distill.truncate=0 or config.distill.window=random."
            )
    if distill.order != "fixed" and distill.batches == 1:
        raise UserError(
            f"config.distill.order is {distill.order!r}, but there is only one inner batch; set config.distill.batches to 2 or more."
        )
    check_choices("distill.robust", distill.robust, ROBUST)
    if "order" in distill.robust and (distill.order != "fixed" or distill.batches == 1):
        raise UserError(
            "config.distill.robust has 'order', which needs config.distill.order=fixed and config.distill.batches of 2 or more; "
            f"they are {distill.order} and {distill.batches}."
        )
    if "examples" in distill.robust and distill.order != "fixed":
        raise UserError(f"config.distill.robust has 'examples', which needs config.distill.order=fixed; it is {distill.order}.")
    if not 0 < distill.initial_momentum < 1:
        raise UserError(f"config.distill.initial_momentum is {distill.initial_momentum!r}, but must lie between 0 and 1.")
    from ddllm.distill.optimizers import make_optimizer  # imports jax, which the command line does without

    make_optimizer(distill.inner_optimizer, "config.distill.inner_optimizer")


def _get(config: ConfigDict, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value
