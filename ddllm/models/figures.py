"""What predictions are worth, by well-kept libraries: accuracy, F1 and correlations."""

import numpy as np


def compute_figure(name: str, labels: np.ndarray, predicted: np.ndarray) -> float:
    """One figure of predictions in the labels' form; accuracy and F1 in [0, 1], correlations in [-1, 1].

    Where a correlation is not defined, because all predictions (or labels) are the same, it counts as 0.
    """
    if name == "accuracy":
        return float(np.mean(predicted == labels))
    if name in ("f1_macro", "f1_micro"):
        from sklearn.metrics import f1_score

        return float(f1_score(labels, predicted, average=name.removeprefix("f1_"), zero_division=0))  # pyright: ignore[reportArgumentType]
    from scipy import stats

    if np.ptp(labels) == 0 or np.ptp(predicted) == 0:
        return 0.0
    return float({"pearson": stats.pearsonr, "spearman": stats.spearmanr}[name](labels, predicted).statistic)
