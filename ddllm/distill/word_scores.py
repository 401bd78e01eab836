"""Word scores: how far each word of the vocabulary goes along where training on distilled examples moves words.

Fine-tuning on real texts trains the word table too; a distilled example is made of embeddings that are no words, so nothing that it teaches reaches the
table, and what a corpus says about thousands of single words is lost. With word scores [R, V] the student has R moves u_r of size D, zero at first and
trained like every parameter. A word w is embedded at E_w + Σ_r score_{r,w} u_r, and position t of example n at v_{n,t} + Σ_r share_{n,t,r} u_r: it stands
for the words that have scores, in learned shares, and when training moves it they move along. So the table changes by a matrix of rank R, of which one
factor is part of the data and the other one is learned from it, as the frozen and the trained factor of LoRA (Hu et al., 2021, arXiv 2106.09685).

R is the number of outputs: the examples of a class begin as moving the words of this class. Scores begin at zero, which is no effect at all; words that no
training text has stay there.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ddllm.distill.dataset import DistilledData
from ddllm.models.encoder import Tree
from ddllm.models.words import MOVES


def first_scores(moves: int, vocabulary: int) -> np.ndarray:
    """Scores [R, V] that change nothing."""
    return np.zeros((moves, vocabulary), np.float32)


def first_shares(mask_MNT: np.ndarray, moves: int) -> np.ndarray:
    """Shares [M, N, T, R]: all positions of an example in one move, the examples of a batch in as many parts as there are moves, class after class."""
    batches, examples, length = mask_MNT.shape
    own_N = np.arange(examples) * moves // examples if examples >= moves else np.arange(examples)
    shares_NR = np.eye(moves, dtype=np.float32)[own_N]
    return np.ascontiguousarray(np.broadcast_to(shares_NR[:, None], (batches, examples, length, moves)))


def add_rate(rates_SG: Any, raw: float) -> np.ndarray:
    """Raw rates [S, G + 1] with one for the moves, the last group; as they are where one rate is for all parameters."""
    rates = np.asarray(rates_SG)
    return rates if rates.shape[1] == 1 else np.pad(rates, ((0, 0), (0, 1)), constant_values=np.float32(raw))


def with_moves(params: Tree, data: DistilledData) -> Tree:
    """Parameters {"body", "head"} with the moves [R, D] that a data set's word scores ask for, as training begins with them."""
    if data.word_scores is None:
        return params
    return params | {MOVES: jnp.zeros((np.shape(data.word_scores)[0], data.embeddings.shape[-1]), jnp.float32)}
