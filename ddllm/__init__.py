"""ddllm learns a handful of synthetic examples on which fine-tuning BERT-family encoders is nearly as good as on the whole text data set.

The data's way through the package, one room for each step:

    data/      corpora ─► token arrays ─► batches
    models/    encoder and heads as pure functions, pretrained checkpoints ⇄ parameter trees
    select/    features of real texts, and methods that choose a few of them
    distill/   the distilled data set, the inner loop, meta-gradients, the outer loop
    merge/     several distilled data sets as one, perhaps learned again
    evaluate/  fine-tuning on everything, on selected real examples, on a distilled data set
    continual/ tasks one after the other, with distilled data sets as the memory
    report/    tables, figures, results.json
    runtime/   devices, working directories, checkpoints, metrics and progress

Shape letters, used as suffixes of names in dense code: S inner step, M inner batch, N example in an inner batch, B real batch, T position,
D hidden size, H heads, K head size, F feed-forward size, L layers, C classes, V vocabulary, P position rows, Y token types.
"""

from typing import Any

__version__ = "0.1.0"

# Public names, imported at first use: `import ddllm` stays quick.
_PUBLIC = {"train": "ddllm.use", "load_distilled": "ddllm.distill.artefact", "UserError": "ddllm.errors"}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ddllm' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)
