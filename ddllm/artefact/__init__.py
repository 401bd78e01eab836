"""The distilled data set as a folder that anyone can use: arrays, recipe, readable rows, a card, and a PyTorch file that needs nothing of this package."""
