"""Fine-tuning on everything, on random real examples and on a distilled data set, and what each of them reaches."""
