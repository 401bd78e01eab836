"""Learning one task after the other: what a memory of distilled data sets keeps of the earlier ones, beside other memories of as many bytes."""
