"""From a named corpus to batches: `corpus` reads and splits texts, `tokens` makes token arrays of them, `batches` deals those out."""
