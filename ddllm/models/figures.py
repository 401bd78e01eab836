"""What predictions are worth, by well-kept libraries: accuracy, F1 and correlations."""

import math

import numpy as np


def compute_figure(name: str, labels: np.ndarray, predicted: np.ndarray) -> float:
    """One figure of predictions in the labels' form; accuracy and F1 in [0, 1], correlations in [-1, 1].

    Where a correlation is not defined, because all predictions (or labels) are the same or a prediction is not finite, it counts as 0.
    """
    if name == "accuracy":
        return float(np.mean(predicted == labels))
    if name in ("f1_macro", "f1_micro"):
        from sklearn.metrics import f1_score

        average = name.removeprefix("f1_")
        if labels.ndim == 2 and labels.shape[1] == 1:
            # Taken for two classes, as scikit-learn takes one column, texts without the label would count as well.
            labels, predicted, average = labels[:, 0], predicted[:, 0], "binary"
        return float(f1_score(labels, predicted, average=average, zero_division=0))  # pyright: ignore[reportArgumentType]
    from scipy import stats

    if not np.isfinite(predicted).all() or np.ptp(labels) == 0 or np.ptp(predicted) == 0:
        return 0.0
    return float({"pearson": stats.pearsonr, "spearman": stats.spearmanr}[name](labels, predicted).statistic)


def standard_error(name: str, value: float, count: int) -> float:
    """How far a figure of so many texts is from that of all texts, as a standard deviation: √(p(1 − p)/n) of a share, (1 − r²)/√(n − 1) of a correlation.

    F1 counts as a share, which it is not quite; Spearman's correlation as Pearson's.
    """
    if name in ("pearson", "spearman"):
        return (1 - value * value) / math.sqrt(max(count - 1, 1))
    return math.sqrt(max(value * (1 - value), 0.0) / count)
