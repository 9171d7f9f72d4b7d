"""Likeness: from a folder of photos of one person to the LoRA that looks most like them.

The library knows no Snakemake: every function takes plain values and paths.
"""

from likeness.core.imports import start_sooner

start_sooner()
