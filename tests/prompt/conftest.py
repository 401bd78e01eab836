"""Tiny random language models with a tokenizer of the words of the tiny corpus, in the hub's format."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")


@pytest.fixture(scope="session")
def make_decoder(tmp_path_factory, tiny_corpus):
    """make(family, seed) -> folder of a random GPT-2 or Llama; the same seed gives the same weights."""
    rows = [json.loads(line) for line in (tiny_corpus / "train.jsonl").read_text().splitlines()]
    known = sorted({word for row in rows for word in row["text"].split()} | {"Review", "Sentiment", ":", "negative", "positive", "very", "N", "/", "A"})

    def make(family: str = "gpt2", seed: int = 0, words: tuple[str, ...] = ()) -> Path:
        import torch
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

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
        if family == "gpt2":
            model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=128, initializer_range=0.5, **common))
        else:
            sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24}
            more = {"max_position_embeddings": 128, "initializer_range": 0.5, "rms_norm_eps": 1e-5, "tie_word_embeddings": True}
            model = LlamaForCausalLM(LlamaConfig(**sizes, **more, **common))
        model.save_pretrained(folder)
        return folder

    return make
