"""Fine-tuning on everything, on selected real examples and on a distilled data set, and what each of them reaches."""
