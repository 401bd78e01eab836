"""Few-shot prompts for GPT-family models: which examples stand in them, how they are worded, who answers, and how the answers are scored."""
