"""Merging distilled data sets of one encoder into one: their arrays brought to the same shapes, put in an order, and perhaps learned again."""
