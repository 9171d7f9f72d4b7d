"""Base models and LoRA files: how they are located, checked and loaded, and the conditioning on a text."""
