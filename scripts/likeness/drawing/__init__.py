"""Sampling pictures with a LoRA, the tables of these samples, and the marks and metadata of generated pictures."""
