"""Every key is declared once and checked; arguments of configuration files are strict."""

import json

import pytest

from ddllm.checks import CHOICES, NOT_NEGATIVE, POSITIVE, validate
from ddllm.config import default_config, flatten, resolve
from ddllm.errors import UserError
from ddllm.models.tasks import MultiLabel, Regression
from ddllm.prepare import check_task
from ddllm.recipes import apply_argument, parse_argument


def test_defaults_are_valid_and_plain():
    config = default_config()
    validate(config)
    assert json.loads(json.dumps(resolve(config))) == resolve(config)


def test_checked_keys_exist():
    known = flatten(default_config())
    assert set(POSITIVE) | set(NOT_NEGATIVE) | set(CHOICES) <= set(known)
    assert not set(POSITIVE) & set(NOT_NEGATIVE)


@pytest.mark.parametrize("key", POSITIVE)
def test_what_must_be_positive(key):
    config = default_config()
    section, name = key.split(".")
    config[section][name] = type(config[section][name])(0)
    with pytest.raises(UserError, match=f"config.{key} is 0.*greater than 0"):
        validate(config)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"distill.offload": True, "distill.gradient": "direct"}, "use config.distill.gradient=mixed or checkpointed"),
        ({"distill.segments": 2}, "does not divide the 1 inner steps"),
        ({"distill.truncate": 3, "distill.passes": 4, "distill.segments": 2}, "does not divide the 3 steps of config.distill.truncate"),
        ({"distill.truncate": 2}, "only 1 inner steps"),
        ({"distill.window": "random"}, "config.distill.truncate"),
        ({"distill.truncate": 1, "distill.batches": 2, "distill.examples_per_class": 2}, "1 of the 2 inner batches would never be learned"),
        ({"distill.truncate": 1, "distill.passes": 2, "distill.head": "learned"}, "do not reach the head"),
        ({"distill.order": "shuffled"}, "only one inner batch"),
        ({"distill.order": "shufled"}, r"did you mean shuffled\?"),
        ({"distill.initial_momentum": 1.0}, "between 0 and 1"),
        ({"distill.inner_optimizer": "adamw(b3=0.9)"}, "config.distill.inner_optimizer .* has no argument b3"),
        ({"distill.average": 1.0}, "below 1"),
        ({"distill.curriculum": 1.0}, "config.distill.curriculum must be below 1"),
        ({"distill.weight_decay": 0.1, "distill.optimizer": "adam"}, "set config.distill.optimizer to adamw or config.distill.weight_decay to 0"),
        ({"data.seed": 2**31}, "config.data.seed is 2147483648, but seeds must be at most 2147483647"),
        ({"distill.probe_texts": 9}, "is about a learned head"),
        ({"distill.initial_labels": "model", "distill.head": "learned", "distill.labels": "hard"}, "hard labels are those of the class"),
        ({"distill.teacher_share": 1.5}, "between 0 and 1"),
        ({"distill.teacher": "runs/a | runs/a"}, "each run once"),
        ({"distill.brief_teachers": 0}, "greater than 0"),
        ({"distill.brief_epochs": 0.0}, "greater than 0"),
        ({"distill.adaptive_clip": 0.5}, "would clip every usual gradient"),
        ({"distill.attention_labels": "cl"}, r"did you mean cls\?"),
        ({"evaluate.selection_rates": ()}, "at least one rate"),
        ({"evaluate.selection_rates": (0.1, -1.0)}, "greater than 0"),
        ({"evaluate.selection_passes": ()}, "at least one number of passes"),
        ({"evaluate.selection_passes": (1, 2.5)}, r"has 2\.5, but must have whole numbers"),
        ({"evaluate.selection_rates": ("a",)}, "has 'a', but must have numbers"),
        ({"evaluate.transfer": (1,)}, "must have names in quotation marks"),
        ({"data.label_columns": (1, 2)}, "config.data.label_columns has 1, but must have names"),
        ({"data.label_columns": ("tox", "tox")}, "config.data.label_columns is .* each name once"),
        ({"data.label_names": ("neg,pos",)}, "each name once, in quotation marks"),
        ({"finetune.epochs": float("inf")}, "config.finetune.epochs is inf, but must be a number that is finite"),
        ({"evaluate.selections": ("random", "k_center")}, r"config.evaluate.selections has 'k_center' \(did you mean k_centers\?\)"),
        ({"distill.initial": "k_center"}, r"config.distill.initial is 'k_center' \(did you mean k_centers\?\)"),
        ({"distill.gradient": "mix"}, r"did you mean mixed\?"),
        ({"distill.clip": -1.0}, "must not be negative"),
        ({"text.route": "project,splice", "text.pool": 1, "distill.examples_per_class": 2}, "config.text.pool is 1"),
    ],
)
def test_values_that_cannot_be_meant(changes, message):
    config = default_config()
    for key, value in changes.items():
        section, name = key.split(".")
        config[section][name] = value
    with pytest.raises(UserError, match=message):
        validate(config)


def test_seeds_are_those_that_heads_can_be_drawn_with():
    config = default_config()
    config.seed = 2**31 - 1
    validate(config)
    config.seed = 2**63
    with pytest.raises(UserError, match="config.seed is 9223372036854775808"):
        validate(config)


@pytest.mark.parametrize("task", [Regression(), MultiLabel()])
def test_only_classes_can_be_balanced(task):
    config = default_config()
    check_task(config, task)
    config.distill.balanced = True
    with pytest.raises(UserError, match=f"config.distill.balanced asks .* but the task is {task.name}; set it to False"):
        check_task(config, task)


def test_keys_cannot_be_added():
    with pytest.raises(AttributeError, match="outer_steps"):
        default_config().distill.outer_step = 3


def test_arguments():
    assert parse_argument("model=a/b,smoke") == {"model": "a/b", "smoke": ""}
    assert parse_argument("") == parse_argument(None) == {}
    for argument, message in (("smoke=1", "takes no value"), ("model", "needs a value"), ("modle=x", "did you mean model")):
        with pytest.raises(UserError, match=message):
            parse_argument(argument)
    config = default_config()
    config.name = "x"
    assert apply_argument(config, "length=64,seed=3").name == "x-length64-seed3"
    assert config.data.length == config.distill.length == 64 and config.seed == 3
    validate(config)
