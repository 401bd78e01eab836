"""The stage `merge`: the folders of config.merge.sets become the run's distilled data set, in the way that config.merge.how names.

    python -m ddllm.main --config configs/ag_news.py:model=embedded --mode=merge,evaluate --sets runs/a/distilled,runs/b/distilled

| how | what comes out | learned again on |
|---|---|---|
| `auto`: as config.merge.order says, or else `join` where sets have as many steps and `interleave` where not | all sets of one task | nothing |
| `concatenate`, `interleave`, `join` | all sets of one task, in an order (combine.py) | nothing |
| `union` | sets of different classes, in one head | nothing |
| `heads` | sets of different classifications, a head for each | nothing, or config.merge.tasks |
| `relearn` | as config.merge.order says, then config.merge.learn learned again | texts, or the sets |
| `fewer` | config.merge.examples_per_class of them, everything learned again | texts, or the sets |
| `update` | one set, changed by new texts | texts beside the set |

config.merge.learn_on decides otherwise: a union can be learned again on the sets too.
"""

from typing import Any

from ddllm.artefact.base import Distilled
from ddllm.artefact.export import kept_config
from ddllm.artefact.folder import load_distilled
from ddllm.data.several import read_several
from ddllm.distill.dataset import learned_parts
from ddllm.errors import UserError
from ddllm.merge.checks import WAYS
from ddllm.merge.combine import choose_way
from ddllm.merge.relearn import Work, relearn_on_sets, relearn_on_tasks, relearn_on_texts, update, without_texts
from ddllm.merge.sets import HEADS, SAME, UNION, Merged, merge_sets, most_exact, reduce_set
from ddllm.models.pretrained import Pretrained, load_pretrained
from ddllm.run import Run
from ddllm.runtime.processes import from_first, is_first
from ddllm.runtime.progress import say
from ddllm.runtime.workdir import SETS, TASKS
from ddllm.values import split_parts

OVER = {"union": UNION, "heads": HEADS}


def merge(run: Run) -> None:
    """Merge distilled folders into the run's own.

    Raises:
        UserError: a folder is not one, the sets do not fit together or to the encoder, or there is nothing to learn from.
    """
    config = run.config.merge
    folders = [str(folder) for folder in config.sets]
    if not folders:
        raise UserError("there is nothing to merge; give the distilled folders as --sets A,B.")
    sets = from_first(lambda: [load_distilled(folder) for folder in folders])
    for number, one in enumerate(sets):
        if (twice := next((place for place in range(number) if sets[place].checksum == one.checksum), None)) is not None:
            say(f"{folders[twice]} and {folders[number]} hold the same distilled data set, which counts twice.")
    products = {one.products for one in sets}
    if len(products) > 1:
        say(f"the sets were distilled with matrix products in {' and '.join(sorted(products))}; the merged one is trained in {most_exact(sets)}.")
    merged, pretrained = merge_as_asked(run, sets, folders)
    learned_from = run.taught() if merged.card.get("corpus") and run.config.distill.teacher else {}
    if is_first():
        merged.save(run.workdir.distilled, pretrained, run.config.distill.storage, config=kept_config(run.config), **learned_from)
        data = merged.data
        if merged.card.get("outer_step") == 0:
            say("nothing that was learned again is better on validation than what was there before, which is kept")
        say(f"merged into {data.examples} examples in {data.steps} inner steps: {run.workdir.distilled}")


def merge_as_asked(run: Run, sets: list[Distilled], folders: list[str]) -> tuple[Merged, Pretrained]:
    """The merged set that config.merge describes, and its encoder; checkpoints of what is learned lie in the working directory."""
    config, distill = run.config.merge, run.config.distill
    work = Work(run.workdir.path / "merge", run.metrics, config.outer_steps or distill.outer_steps, config.variants)
    way = config.how if config.how in WAYS else config.order
    if way == "auto":
        way = "interleave" if config.how in ("fewer", "update") else choose_way(sets)
    begun = {SETS: " ".join(str(one.checksum) for one in sets)}
    if config.how == "update":
        run.keep_origin(begun)
        return update(run.prepared, sets[0], folders[0], way, config.old_share, work), run.prepared.pretrained
    source = config.learn_on
    if source == "auto":
        source = "texts" if config.how in ("relearn", "fewer") or config.tasks else "nothing"
    own = source == "texts" and not config.tasks
    pretrained = run.prepared.pretrained if own else load_pretrained(run.config.model.name)
    names = tuple(run.config.data.label_names) or (run.prepared.tokens.label_names if own else ())
    merged = merge_sets(sets, folders, way, pretrained, OVER.get(config.how, SAME), names)
    parts: Any = tuple(config.learn)
    if config.how == "fewer":
        merged = reduce_set(merged, config.examples_per_class, config.passes or distill.passes)
        parts = tuple(learned_parts(merged.data, merged.recipe))
    if source != "nothing":
        run.keep_origin(begun)
    if source == "sets":
        return relearn_on_sets(without_texts(run.config, pretrained, merged), merged, sets, parts, work), pretrained
    if config.tasks:
        corpora = read_several(split_parts(config.tasks), run.config.data, pretrained, run.workdir.tokens, "merge.tasks")
        run.keep_origin({TASKS: " ".join(corpus.fingerprint for corpus in corpora)})
        return relearn_on_tasks(without_texts(run.config, pretrained, merged), merged, corpora, parts, work), pretrained
    if own:
        tokens = run.prepared.tokens
        pairs = bool(run.config.data.pair_column)
        merged.as_distilled().check_data("the merged set", merged.learner.task.name, tokens.name, tokens.label_names, run.prepared.learner.task.name, pairs)
        teacher = run.teacher() if distill.teacher else None
        return relearn_on_texts(run.prepared, merged, parts, work, teacher), pretrained
    return merged, pretrained
