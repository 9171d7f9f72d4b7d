"""The trainer. loop.py is the training loop, store.py keeps states and epochs, plan.py orders the pictures."""
