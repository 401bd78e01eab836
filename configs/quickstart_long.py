"""The quickstart with more time: three epochs of full fine-tuning, more and shorter examples, a longer distillation, more heads and draws.

    python -m ddllm.main --config configs/quickstart_long.py

Meant for an hour on two cores. Measured so far, the distill stage alone and without gains: 35 minutes with tests beside it; distilled 80.5 on test, one seed.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

from ddllm.recipes import apply_argument


def get_config(argument: str = "") -> ConfigDict:
    """The configuration, changed by what stands after the colon."""
    config = runpy.run_path(str(Path(__file__).with_name("quickstart.py")))["get_config"]()
    config.name = "quickstart_long"
    config.distill.examples_per_class = 10
    config.distill.batches = 5
    config.distill.length = 16
    config.distill.outer_steps = 1200
    config.distill.batch_size = 32
    config.distill.average = 0.99
    config.distill.validate_every = 100
    config.distill.checkpoint_every = 50
    config.finetune.epochs = 3.0
    config.finetune.validations = 6
    config.evaluate.selections = ("random", "k_centers", "herding")
    config.evaluate.selection_draws = 5
    config.evaluate.selection_passes = (1, 4, 16)
    config.evaluate.tuning_texts = 500
    config.evaluate.head_texts = 0
    return apply_argument(config, argument)
