"""A project of kohya's trainer, read and written as a config.yaml. Only import_kohya.py imports this package."""
