"""Which values of config.privacy can be meant."""

from ml_collections import ConfigDict

from ddllm.errors import UserError


def validate_privacy(privacy: ConfigDict) -> None:
    """Raise `UserError` for a value of config.privacy that cannot be meant."""
    for key in ("texts", "heads", "resamples"):
        if not isinstance(privacy[key], int) or privacy[key] < 1:
            raise UserError(f"config.privacy.{key} is {privacy[key]!r}, but must be a whole number greater than 0.")
