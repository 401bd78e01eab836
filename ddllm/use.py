"""A distilled data set in your own code: from its folder to a trained classifier in one call.

import ddllm

trained = ddllm.train("runs/quickstart/distilled")
trained.predict(["a moving, funny film", "two hours I will never get back"])
trained.save("my-classifier")
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddllm.artefact.base import Distilled, runs_in_transformers
from ddllm.artefact.folder import load_distilled
from ddllm.checks import LARGEST_SEED
from ddllm.data.batches import compute_rows, length_buckets
from ddllm.data.splits import Split
from ddllm.data.tokens import check_words, load_tokenizer, tokenize_texts
from ddllm.errors import UserError
from ddllm.evaluate.small import train_small
from ddllm.models.encoder import Tree
from ddllm.models.learner import Learner, Start
from ddllm.models.multi_head import MultiHead
from ddllm.models.parts import choose_tokens
from ddllm.models.pretrained import Pretrained, load_pretrained
from ddllm.models.save import save_pretrained
from ddllm.models.scoring import batch_logits
from ddllm.models.words import moved_words
from ddllm.runtime.progress import say

Texts = Sequence[str] | Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Trained:
    """A classifier (or what the task asks for) trained on a distilled data set.

    Attributes:
        params: {"body", "head"} after training, with "moves" and "word_scores" where words were moved (see models/words.py).
        learner: encoder and head.
        pretrained: the checkpoint that training started from.
        distilled: what it was trained on.
    """

    params: Tree
    learner: Learner
    pretrained: Pretrained
    distilled: Distilled

    @cached_property
    def tokenizer(self) -> Any:
        """The base model's tokenizer, read at first use."""
        return load_tokenizer(self.pretrained.folder)

    def logits(self, texts: Texts, batch_size: int = 32) -> np.ndarray:
        """Logits [n, C] of texts, or of (first, second) pairs of texts where the data set was distilled for these.

        They are cut to the length that the distilled data set was made for.

        Raises:
            UserError: there are single texts instead of pairs, or the other way round, there is no list of them, or a token is none of the model's.
        """
        length = self.distilled.card["preprocessing"]["text_length"]
        tokens, _ = tokenize_texts(self.tokenizer, self._split(texts), length)
        check_words(self.pretrained, "one of the texts", tokens)
        words = jnp.asarray(self.pretrained.words)
        buckets = length_buckets(tokens.lengths, length)
        at_once = choose_tokens(0, jax.default_backend())
        compute = partial(batch_logits, self.params, words, learner=self.learner, tokens=at_once)
        return compute_rows(tokens, batch_size, buckets, self.learner.head.classes, compute)

    def _split(self, texts: Texts) -> Split:
        paired = self.distilled.pairs
        if isinstance(texts, str):
            raise UserError("give a list of texts, such as ['a fine film'], also for a single one.")
        if any((not isinstance(text, str)) != paired for text in texts):
            wanted = "pairs of texts, such as [('first', 'second')]" if paired else "single texts, such as ['first', 'second']"
            raise UserError(f"the data set was distilled for {wanted}; give those.")
        if not paired:
            return Split.unlabelled([str(text) for text in texts])
        return Split.unlabelled([first for first, _ in texts], [second for _, second in texts])

    def predict(self, texts: Texts, batch_size: int = 32) -> list[Any]:
        """The class name of each text, or pair of texts; of a regression a number, and of sets of labels the list of their names."""
        return self.learner.task.tell(self.logits(texts, batch_size), self.distilled.label_names) if texts else []

    def save(self, folder: str | Path) -> None:
        """Write an ordinary Hugging Face checkpoint, which `transformers.pipeline` runs; see models/save.py for what mean pooling becomes.

        The folder is new, empty, or what was saved before. Says so where transformers cannot run the head (mean pooling of an MPNet, or of very many classes).
        """
        learner, names = self.learner, self.distilled.label_names
        names = learner.task.output_names(names) if isinstance(learner.task, MultiHead) else names
        params = self.params | {"head": learner.task.export_head(self.params["head"])}
        length, words = self.distilled.card["preprocessing"]["text_length"], moved_words(params, self.pretrained.words)
        save_pretrained(folder, self.pretrained, params, words, learner.head, names, learner.task.problem, length)
        if not runs_in_transformers(learner):
            say(f"  transformers cannot run the head in {folder}, which pools the mean; ddllm can")


def train(folder: str | Path, model: str | None = None, seed: int = 0) -> Trained:
    """Train on a distilled data set, exactly as its recipe says.

    Args:
        folder: what a run wrote to <workdir>/distilled.
        model: the pretrained model, where it lies elsewhere than the recipe says: hub name or local folder.
        seed: of what the recipe leaves to chance: a redrawn head, a shuffled order.

    Raises:
        UserError: the folder is broken, the model is not the one that it was distilled for, or the seed is too large.
    """
    return train_distilled(load_distilled(folder), model, seed)


def train_distilled(distilled: Distilled, model: str | None = None, seed: int = 0) -> Trained:
    """The same for a distilled data set that is loaded already."""
    if not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"the seed is {seed}, but must be between 0 and {LARGEST_SEED}.")
    pretrained = load_pretrained(model or distilled.card["base_model"]["name"])
    distilled.check_base(pretrained)
    learner = distilled.learner(pretrained)
    parts = Start(*jax.tree.map(jnp.asarray, (pretrained.body, pretrained.words, pretrained.pooler)))
    data = jax.tree.map(jnp.asarray, distilled.data)
    return Trained(train_small(learner, distilled.recipe, parts, data, jax.random.key(seed)), learner, pretrained, distilled)
