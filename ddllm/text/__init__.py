"""Between embeddings and text: token projection, and what a vocabulary holds."""
