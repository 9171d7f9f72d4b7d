"""The trainer: loop.py is the training itself, store.py what survives a kill, plan.py the arithmetic of steps."""
