"""Encoders and heads as pure functions of parameter trees, and their way to and from Hugging Face checkpoints."""
