"""Language models are run by PyTorch."""

import pytest

pytest.importorskip("torch")
