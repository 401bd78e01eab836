"""Mean pooling for programs that have none: `fold_mean` puts it into one more encoder layer and the family's own head.

transformers' classes for sequence classification look at the first position. Attention whose scores are all equal takes a mean, though, so the layer has no
queries and keys, and as values the C logits, divided by a bound of theirs and times a large number, beside which the residual h does not count. The two
normalisations of a layer would take away mean and length; so that they do not,

- one coordinate holds minus the sum of these logits l, and the mean stays what it is;
- the last two coordinates hold a constant and its negative, 64 times what l can be at most, and the deviation is theirs but for a part in 8,192 at most (l
  is far from its bound, as a rule, and this part falls with the square).

The scale of the norm then gives back l but for rounding. The feed-forward part adds the constant once more, and nothing else. In the head, tanh works on
2⁻¹⁶ l, where it is straight, and DistilBERT's ReLU on l and −l; its last layer multiplies by the bound again. Errors are about 10⁻⁵ of what logits usually
are, however large the head is: that of a regression has the labels' units. In 16 bits all this would overflow.
"""

from dataclasses import replace

import numpy as np

from ddllm.models.encoder import EncoderConfig, Tree, layer_name

MARGIN, LOUD, QUIET = 2.0**6, 2.0**24, 2.0**-16


def can_fold(config: EncoderConfig, classes: int) -> bool:
    """Whether the layer is wide enough for so many logits, and its scores can all be equal, which they cannot where distances count."""
    return config.layers > 0 and not config.distances and max(classes + 3, 2 * classes if config.family == "distilbert" else 0) <= config.hidden


def fold_mean(body: Tree, config: EncoderConfig, head: Tree) -> tuple[Tree, EncoderConfig, Tree]:
    """Body, constants and head, of the family's kind, that give the logits of `head` on the mean over real positions.

    Args:
        body: of the trained encoder.
        config: its constants; see `can_fold`.
        head: of mean pooling, {"out"}.
    """
    kernel_DC, bias_C = (np.asarray(head["out"][part], np.float32) for part in ("kernel", "bias"))
    width, classes = kernel_DC.shape
    norm = body["layers"][layer_name(config.layers - 1)]["feed_forward"]["norm"]
    scale_D, shift_D = np.asarray(norm["scale"]), np.asarray(norm["bias"])
    # By Cauchy and Schwarz: what is normalised has the length √D.
    bounds_C = np.abs(shift_D @ kernel_DC) + np.linalg.norm(scale_D[:, None] * kernel_DC, axis=0) * width**0.5
    bound = float(np.linalg.norm([*bounds_C, bounds_C.sum()])) or 1.0
    values = np.zeros((width, 3 * width), np.float32)
    values[:, 2 * width : 2 * width + classes] = LOUD / bound * kernel_DC
    values[:, 2 * width + classes] = -LOUD / bound * kernel_DC.sum(axis=1)
    layer = {
        "attention": {
            "qkv": {"kernel": values, "bias": np.zeros(3 * width, np.float32)},
            "out": {"kernel": np.eye(width, dtype=np.float32), "bias": _spike(width, LOUD * MARGIN)},
            "norm": _restoring_norm(width, classes),
        },
        "feed_forward": {
            "up": {"kernel": np.zeros((width, config.feed_forward), np.float32), "bias": np.zeros(config.feed_forward, np.float32)},
            "down": {"kernel": np.zeros((config.feed_forward, width), np.float32), "bias": _spike(width, MARGIN)},
            "norm": _restoring_norm(width, classes),
        },
    }
    layers = {**body["layers"], layer_name(config.layers): layer}
    return {**body, "layers": layers}, replace(config, layers=config.layers + 1), _own_head(config.family, width, bound, bias_C)


def _spike(width: int, size: float) -> np.ndarray:
    spike = np.zeros(width, np.float32)
    spike[-1], spike[-2] = size, -size
    return spike


def _restoring_norm(width: int, classes: int) -> Tree:
    """What undoes what spikes of `MARGIN` do to numbers that stand beside them, and silences the others."""
    scale = np.zeros(width, np.float32)
    scale[: classes + 1] = MARGIN * (2 / width) ** 0.5
    return {"scale": scale, "bias": np.zeros(width, np.float32)}


def _own_head(family: str, width: int, bound: float, bias_C: np.ndarray) -> Tree:
    classes = len(bias_C)
    dense, out, rows = np.zeros((width, width), np.float32), np.zeros((width, classes), np.float32), np.arange(classes)
    quiet = 1.0 if family == "distilbert" else QUIET
    dense[rows, rows], out[rows, rows] = quiet, bound / quiet
    if family == "distilbert":  # l = ReLU(l) − ReLU(−l)
        dense[rows, classes + rows], out[classes + rows, rows] = -1.0, -bound
    return {"dense": {"kernel": dense, "bias": np.zeros(width, np.float32)}, "out": {"kernel": out, "bias": bias_C}}
