"""Which values of config.privacy can be meant."""

from ml_collections import ConfigDict

from ddllm.errors import UserError


def validate_privacy(privacy: ConfigDict) -> None:
    """Raise `UserError` for a value of config.privacy that cannot be meant."""
    for key in ("texts", "heads", "resamples"):
        if not isinstance(privacy[key], int) or privacy[key] < 1:
            raise UserError(f"config.privacy.{key} is {privacy[key]!r}, but must be a whole number greater than 0.")
    for key in ("shadows", "shadow_steps"):
        if not isinstance(privacy[key], int) or privacy[key] < 0:
            raise UserError(f"config.privacy.{key} is {privacy[key]!r}, but must be a whole number that is not negative.")
    if privacy.shadows % 2:
        raise UserError(
            f"config.privacy.shadows is {privacy.shadows}, but shadow sets come in pairs, one for each half of the texts; make it an even number."
        )
