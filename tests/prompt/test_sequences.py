"""What a text stands behind when all of it is scored."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ddllm.errors import UserError
from ddllm.prompt.sequences import END_OF_TEXT, Target, arrange, whole_texts


def make_tokenizer(*special, opened=False, **names):
    words = {name: number for number, name in enumerate([*special, "a", "good", "film"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if opened:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{special[0]} $A", special_tokens=[(special[0], 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


@pytest.mark.parametrize(
    ("tokenizer", "begin"),
    [
        (make_tokenizer("<s>", "</s>", opened=True, bos_token="<s>", eos_token="</s>"), 0),
        (make_tokenizer("<s>", "</s>", bos_token="<s>", eos_token="</s>"), 0),
        (make_tokenizer("<x>", "</s>", eos_token="</s>"), 1),
        (make_tokenizer("<start>", END_OF_TEXT, bos_token="<start>", eos_token="<start>"), 1),
    ],
)
def test_a_text_begins_as_documents_did(tokenizer, begin):
    sequences = whole_texts(tokenizer, ["good film", "film"])
    first = tokenizer.get_vocab()["a"]
    assert sequences.ids == [[begin, first + 1], [begin]]
    assert sequences.targets == [[Target(0, 0, (first + 1, first + 2))], [Target(1, 0, (first + 2,))]]


def test_a_prompt_that_is_no_token_begins_as_a_text_does():
    tokenizer = make_tokenizer("<s>", "</s>", bos_token="<s>", eos_token="</s>")
    begin, first = 0, tokenizer.get_vocab()["a"]
    sequences = arrange(tokenizer, ["", "a"], [" good", " film"])
    assert sequences.ids == [[begin], [first]]
    assert sequences.targets == [[Target(row, 0, (first + 1,)), Target(row, 0, (first + 2,))] for row in (0, 1)]


def test_what_has_no_beginning():
    with pytest.raises(UserError, match="no token that a text begins with"):
        whole_texts(make_tokenizer("<x>"), ["film"])
    with pytest.raises(UserError, match="leave empty texts out"):
        whole_texts(make_tokenizer("</s>", eos_token="</s>"), [" "])
