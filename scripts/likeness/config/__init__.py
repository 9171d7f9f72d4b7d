"""config.yaml: its keys and values, and the messages for mistakes. Only the Snakefile and the room kohya import it."""
