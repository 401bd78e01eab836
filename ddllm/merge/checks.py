"""Which values of config.merge can be meant; `validate` calls it."""

from ml_collections import ConfigDict

from ddllm.errors import UserError
from ddllm.values import check_choice, check_choices, check_not_negative, check_positive, named

WAYS = ("concatenate", "interleave", "join")
LEARNED_AGAIN = ("relearn", "fewer", "update")
HOW = ("auto", *WAYS, "union", "heads", *LEARNED_AGAIN)
ORDERS = ("auto", *WAYS)
SOURCES = ("auto", "texts", "sets", "nothing")
PARTS = ("rates", "labels", "embeddings", "directions", "attention", "features", "head", "order")


def validate_merge(merge: ConfigDict) -> None:
    """Raise `UserError` for the first value that cannot be meant."""
    for key, known in (("how", HOW), ("order", ORDERS), ("learn_on", SOURCES)):
        check_choice(f"merge.{key}", merge[key], known)
    check_choices("merge.learn", merge.learn, PARTS)
    if not merge.learn:
        raise UserError("config.merge.learn is empty; make it \"('rates','labels')\", or choose a config.merge.how that learns nothing.")
    check_positive(named("merge", merge, ("examples_per_class",)))
    check_not_negative(named("merge", merge, ("passes", "outer_steps", "variants")))
    if not 0 < merge.old_share < 1:
        raise UserError(f"config.merge.old_share is {merge.old_share!r}, but must lie between 0 and 1.")
    if merge.how == "heads" and merge.learn_on == "texts" and not merge.tasks:
        raise UserError(
            "config.merge.learn_on is 'texts', but those of one corpus belong to one head alone, and the others would forget; name every head's corpus "
            "in config.merge.tasks, or make it sets."
        )
    if merge.tasks and (merge.how != "heads" or merge.learn_on not in ("auto", "texts")):
        raise UserError("config.merge.tasks has the corpora that heads learn again on; set config.merge.how to heads and learn_on to auto, or leave it empty.")
    if merge.how in LEARNED_AGAIN and merge.learn_on == "nothing":
        raise UserError(f"config.merge.how is {merge.how!r}, which learns; set config.merge.learn_on to texts or sets, or choose another way.")
    if merge.how == "update" and merge.learn_on == "sets":
        raise UserError("config.merge.how=update learns from new texts; leave config.merge.learn_on at auto.")
    if merge.how == "update" and len(merge.sets) > 1:
        raise UserError(f"config.merge.how=update changes one distilled data set, but --sets has {len(merge.sets)}; merge them first.")
