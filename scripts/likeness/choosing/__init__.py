"""Choosing an epoch and a weight: the measurements, the rule, and the files of best/."""
