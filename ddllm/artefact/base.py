"""What a loaded folder is and what it belongs to: hands on `Distilled`."""

import hashlib
import os
from dataclasses import asdict, dataclass, replace
from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddllm.artefact.schema import ARRAYS, parts_of
from ddllm.data.tokens import TOKENIZER_FILES
from ddllm.distill.dataset import DistilledData, Recipe, group_names
from ddllm.distill.gains import count_gains
from ddllm.distill.word_scores import with_moves
from ddllm.errors import UserError
from ddllm.models.heads import HeadConfig
from ddllm.models.learner import Learner
from ddllm.models.pooling import can_fold
from ddllm.models.pretrained import Pretrained
from ddllm.models.tasks import read_task

if TYPE_CHECKING:
    from ddllm.use import Trained


@dataclass(frozen=True)
class Distilled:
    """A loaded distilled data set.

    Attributes:
        data: the arrays, in numpy.
        recipe: constants of learning from them.
        card: everything else that recipe.json says: base model, head, label names, text length, scores, configuration.
    """

    data: DistilledData
    recipe: Recipe
    card: dict[str, Any]

    @property
    def label_names(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return tuple(self.card["label_names"])

    @property
    def pairs(self) -> bool:
        """Whether it was distilled from pairs of texts."""
        return self.card.get("preprocessing", {}).get("pairs", False)

    @property
    def texts(self) -> list[dict[str, Any]]:
        """{"corpus", "label_names"} of every corpus that it was distilled from, as far as its card knows, also of its teachers' and of merged sets'."""
        own = [{"corpus": self.card["corpus"], "label_names": list(self.label_names)}] if "corpus" in self.card else []
        others = [*self.card.get("teachers", []), *(texts for part in parts_of(self.card) for texts in part.get("texts", []))]
        return own + [texts for texts in others if texts not in own]

    def train(self, model: str | None = None, seed: int = 0) -> "Trained":
        """A classifier trained on it, exactly as its recipe says; see `ddllm.use.train`."""
        from ddllm.use import train_distilled  # the room above this one: it needs everything that trains

        return train_distilled(self, model, seed)

    @property
    def checksum(self) -> str | None:
        """SHA-256 of the arrays' file; None where there is none yet."""
        return self.card.get("files", {}).get(ARRAYS)

    @property
    def products(self) -> str:
        """How exact matrix products were where it was distilled (see `model.products`)."""
        return self.card.get("products", "float32")

    def learner(self, pretrained: Pretrained) -> Learner:
        """The learner that the data set was distilled for: its head and task, on a pretrained encoder.

        Raises:
            UserError: its recipe.json speaks of an unknown task.
        """
        head = dict(self.card["head"])
        start, seed = head.pop("start"), head.pop("seed")
        encoder = replace(pretrained.config, products=self.products)
        return Learner(encoder, HeadConfig(**head), start, seed, read_task(self.card))

    def check_base(self, pretrained: Pretrained) -> None:
        """Raise `UserError` unless these are the weights that the data set was distilled for."""
        base = self.card["base_model"]
        if pretrained.fingerprint != base["fingerprint"]:
            raise UserError(
                f"the data set was distilled for other weights than {pretrained.name} has now (their checksums differ); "
                f"give {base['name']} as it was then, or distil again in another --workdir."
            )
        kept = self.card.get("preprocessing", {}).get("tokenizer_fingerprint")
        if kept and kept != fingerprint_tokenizer(pretrained.folder):
            raise UserError(
                f"the data set was distilled with another tokenizer than {pretrained.name} has now (their checksums differ); "
                f"give {base['name']} as it was then, or distil again in another --workdir."
            )
        config, kind = pretrained.config, self.card["head"]["kind"]
        if kind not in (config.family, "mean"):
            raise UserError(
                f"the data set has a head of the family {kind}, but {pretrained.name} is of the family {config.family}; "
                f"distil again with config.model.head={config.family}, mean or auto."
            )
        if self.data.embeddings.shape[-1] != config.hidden:
            raise UserError(
                f"the data set has embeddings of size {self.data.embeddings.shape[-1]}, but {pretrained.name} has {config.hidden}; get the folder again."
            )
        length = self.card.get("preprocessing", {}).get("text_length", 0)
        for what, positions in ((f"examples of {self.data.embeddings.shape[2]}", self.data.embeddings.shape[2]), (f"texts of {length}", length)):
            if positions > config.positions:
                raise UserError(f"the data set has {what} positions, but {pretrained.name} has {config.positions}; get the folder again.")
        head = {part: {"kernel": 0, "bias": 0} for part in (["out"] if kind == "mean" else ["dense", "out"])}
        params = with_moves({"body": pretrained.body, "head": head}, self.data)
        groups = [len(group_names(params, each)) for each in ("step", "layer", "tensor")]
        if self.data.rates.shape[1] not in groups:
            raise UserError(
                f"the data set has {self.data.rates.shape[1]} rates in a step, but {pretrained.name} may have {groups[0]}, {groups[1]} or {groups[2]}; "
                "get the folder again."
            )
        if self.data.directions is not None and self.data.directions.shape[2] != config.layers:
            raise UserError(
                f"the data set has direction labels for {self.data.directions.shape[2]} layers, but {pretrained.name} has {config.layers}; "
                "get the folder again."
            )
        if self.data.gains is not None and self.data.gains.shape[1] != count_gains(pretrained.body):
            raise UserError(
                f"the data set has {self.data.gains.shape[1]} gains, but {pretrained.name} has {count_gains(pretrained.body)} channels; get the folder again."
            )
        if self.data.word_scores is not None and self.data.word_scores.shape[1] != len(pretrained.words):
            raise UserError(
                f"the data set has scores of {self.data.word_scores.shape[1]:,} words, but {pretrained.name} has {len(pretrained.words):,}; "
                "get the folder again."
            )
        if self.data.attention is not None and self.data.attention.shape[2:4] != (config.layers, config.heads):
            layers, heads = self.data.attention.shape[2:4]
            raise UserError(
                f"the data set has attention labels for {layers} layers with {heads} heads, but {pretrained.name} has {config.layers} with "
                f"{config.heads}; get the folder again."
            )

    def check_data(self, folder: str, task: str, data: str, label_names: tuple[str, ...], asked: str, pairs: bool) -> None:
        """Raise `UserError` unless this folder's data set, for a task, fits a corpus: its name, classes, task, and whether it has pairs of texts."""
        if self.label_names != label_names:
            raise UserError(
                f"{folder} has the classes {', '.join(self.label_names)}, but {data} has {', '.join(label_names)}; "
                "give the data that it was distilled from, or the same names in the same order as config.data.label_names."
            )
        if (task, self.pairs) != (asked, pairs):
            here, there = (
                f"{name} of {'pairs of texts' if of_pairs else 'single texts'}" for name, of_pairs in ((task, self.pairs), (asked, pairs))
            )
            raise UserError(f"{folder} is for {here}, but {data} is read as {there}; see config.data.task and config.data.pair_column.")


def describe_base(pretrained: Pretrained, learner: Learner, text_length: int, pairs: bool = False) -> dict[str, Any]:
    """What a distilled data set belongs to: model, head and how real texts (or pairs of them) are prepared."""
    name = _lasting_name(pretrained)
    revision = pretrained.folder.name if pretrained.folder.parent.name == "snapshots" else None  # as the hub's cache lays them out
    return {
        "base_model": {
            "name": name,
            **({"revision": revision} if revision else {}),
            "fingerprint": pretrained.fingerprint,
            "hidden": pretrained.config.hidden,
            "family": pretrained.config.family,
        },
        "head": {**asdict(learner.head), "start": learner.start, "seed": learner.head_seed},
        "transformers": runs_in_transformers(learner),
        "products": learner.encoder.products,
        **learner.task.card(),
        "preprocessing": {
            "tokenizer": name,
            "tokenizer_fingerprint": fingerprint_tokenizer(pretrained.folder),
            "text_length": text_length,
            "embeddings": "rows of the word table, before position and token-type embeddings",
            "pairs": pairs,
        },
    }


def _lasting_name(pretrained: Pretrained) -> str:
    """What a model was asked for as; of a local folder its whole path, since a relative one means another folder elsewhere."""
    name = pretrained.name
    local = pretrained.folder == Path(expanduser(name))
    return os.path.abspath(name) if local and not name.startswith("~") else name


def runs_in_transformers(learner: Learner) -> bool:
    """Whether transformers can run what is trained: it has no class that pools the mean, and not every encoder has room for a layer that does."""
    return learner.head.kind != "mean" or can_fold(learner.encoder, learner.head.classes)


def fingerprint_tokenizer(folder: Path) -> str:
    """SHA-256 of a model folder's tokenizer files."""
    digest = hashlib.sha256()
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            content = (folder / name).read_bytes()
            digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def drawn_parts(learner: Learner, pretrained: Pretrained) -> dict[str, np.ndarray]:
    """The parts of a head that is the same every time which JAX's generator draws, for those who have no JAX: "out.kernel", "dense.kernel".

    Nothing where the head is redrawn or learned, or begins with zeros and a pretrained layer alone.
    """
    if learner.start not in ("fixed", "zero"):
        return {}
    head = learner.init_head(pooler=pretrained.pooler)
    drawn = {"out": learner.start == "fixed", "dense": not (learner.head.kind == "bert" and pretrained.pooler is not None)}
    return {f"{part}.kernel": np.asarray(head[part]["kernel"], np.float32) for part in head if drawn[part]}


LABELS = {
    "hard": "one row for each example, 1 at its class",
    "soft": "logits of a distribution over the outputs (softmax; sigmoids where labels are sets)",
    "unrestricted": "any numbers; they enter the loss as they stand, in the place of a one-hot row",
}
LOSSES = {
    "classification": "cross-entropy, −Σ_c label_c · log softmax(logits)_c",
    "regression": "squared error of the label in standard deviations from the training texts' mean",
    "multilabel": "binary cross-entropy of sigmoids, mean over labels",
    "multihead": "cross-entropy in the head of an example's own task",
}
AUXILIARY_LOSSES = {
    "attention": "attention_weight × KL(softmax(attention label) ‖ attention), mean over layers, heads and rows",
    "features": "feature_weight × half the squared distance of what the head takes to the feature label",
    "directions": "−⟨direction label, mean hidden state⟩, summed over layers",
}


def describe_loss(data: DistilledData, recipe: Recipe, card: dict[str, Any]) -> dict[str, str]:
    """The inner loss and what stored labels mean, in words."""
    more = [text for name, text in AUXILIARY_LOSSES.items() if getattr(data, name) is not None]
    mean = "sum over all examples, each weighted by its batch's share" if recipe.order == "learned" else "mean over the examples of an inner batch"
    task = card.get("task", {}).get("name", "classification")
    return {"labels_mean": LABELS[recipe.labels], "loss": f"{mean} of: " + "; plus ".join([LOSSES[task], *more])}
