"""Captions: their wording, the models that write them, and how much of them training reads."""
