"""Routes from a distilled data set, or from nothing, to text that trains: hands on `ROUTES`, plain functions with one interface.

| route | begins with | what is learned |
|---|---|---|
| `project` | a distilled set | nothing: its nearest tokens, its labels and rates |
| `relearn` | a distilled set | labels and rates, for its nearest tokens |
| `straight_through` | as config.distill says | embeddings that are their nearest tokens at every use, labels, rates |
| `mixture` | as config.distill says | weights of the nearest tokens of each position, labels, rates |
| `search` | as config.distill says | tokens, exchanged one by one where that lowers the outer loss |
| `splice` | training sentences | which of them, their labels and rates |

With config.text.start every one but the last can begin with a distilled set, or with the text of another route.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ddllm.artefact.base import Distilled
from ddllm.artefact.rows import TEXT
from ddllm.errors import UserError
from ddllm.prepare import Prepared
from ddllm.runtime.processes import from_first, is_first
from ddllm.runtime.progress import say
from ddllm.text.allowed import index_of
from ddllm.text.distilled_text import DistilledText, frame_of, is_whole, load_text, make_text, save_text
from ddllm.text.learn import Desk, learn, learned_beside, plan_texts
from ddllm.text.mixture import mixture
from ddllm.text.search import search
from ddllm.text.splice import splice
from ddllm.text.straight import snap, straight_through

Route = Callable[[Prepared, Distilled | None, Desk], DistilledText]


def project(prepared: Prepared, distilled: Distilled | None, desk: Desk | None = None) -> DistilledText:
    """The nearest tokens of a distilled set; everything else of it is kept, labels of the body too.

    Raises:
        UserError: there is none.
    """
    distilled = required(distilled, "project")
    frame, index = frame_of(prepared, distilled.data.mask), index_of(prepared)
    ids = from_first(lambda: np.asarray(snap(distilled.data.embeddings, index, frame)))
    return make_text(prepared, ids, distilled.data, distilled.recipe)


def relearn(prepared: Prepared, distilled: Distilled | None, desk: Desk) -> DistilledText:
    """The nearest tokens of a distilled set, with labels and rates learned again for them.

    Raises:
        UserError: there is none.
    """
    text = project(prepared, required(distilled, "relearn"))
    prepared, data, recipe = plan_texts(prepared, distilled)
    data = data.replace(embeddings=text.data.embeddings)
    found = learn(prepared, data, learned_beside(data, recipe), desk, "text relearn")
    return make_text(prepared, text.ids, data.replace(**found.learned), recipe, **found.notes)


def required(distilled: Distilled | None, route: str) -> Distilled:
    """The distilled set that a route cannot do without."""
    if distilled is None:
        raise UserError(f"the route {route} begins with a distilled data set; run --mode=distill first, or name a folder with config.text.start.")
    return distilled


ROUTES: dict[str, Route] = {
    "project": project,
    "relearn": relearn,
    "straight_through": straight_through,
    "mixture": mixture,
    "search": search,
    "splice": splice,
}


def write_text(
    route: str, prepared: Prepared, distilled: Distilled | None, desk: Desk, folder: Path, config: dict[str, Any]
) -> DistilledText:
    """Go a route and write what it gives, unless that is there already.

    Args:
        route: one of `ROUTES`.
        prepared, distilled, desk: what it takes.
        folder: where the text goes.
        config: the resolved configuration, kept with it.
    """
    if not from_first(lambda: is_whole(folder)):
        made = ROUTES[route](prepared, distilled, desk)
        if is_first():
            save_text(folder, prepared, made, route=route, config=config)
    say(f"  text ({route}): {folder / TEXT}")
    return from_first(lambda: load_text(folder))
