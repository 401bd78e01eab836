"""The distilled data set, the inner loop that learns from it, and the outer loop that learns it."""
