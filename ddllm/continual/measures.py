"""What was kept and what was lost, from the accuracy on every earlier task after each task.

Average accuracy and forgetting are those of Chaudhry et al. (ECCV 2018), backward transfer that of Lopez-Paz and Ranzato (NeurIPS 2017, equation 3).
"""

from collections.abc import Sequence

import numpy as np


def measure(accuracies: Sequence[Sequence[float]]) -> dict[str, float]:
    """Measures after the last task learned so far.

    Args:
        accuracies: row i has the accuracies on tasks 0 to i after task i, in [0, 1].

    Returns:
        "average": mean accuracy over tasks; "forgetting": how much less than the best so far earlier tasks have, on average; "transfer": how much more
        than right after they were learned. The last two are 0 after the first task.
    """
    last = len(accuracies) - 1
    average = float(np.mean(accuracies[last]))
    if not last:
        return {"average": average, "forgetting": 0.0, "transfer": 0.0}
    lost = [max(accuracies[i][j] for i in range(j, last)) - accuracies[last][j] for j in range(last)]
    gained = [accuracies[last][j] - accuracies[j][j] for j in range(last)]
    return {"average": average, "forgetting": float(np.mean(lost)), "transfer": float(np.mean(gained))}
