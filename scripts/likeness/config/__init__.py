"""config.yaml: its keys and values, and the messages for mistakes. Only the Snakefile imports this package."""
