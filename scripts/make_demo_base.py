"""Make the demonstration's base model: Stable Diffusion's architecture, small, with reproducible random weights."""

from likeness import cli
from likeness.models import model_path


def main() -> None:
    args = cli.arguments(__doc__, "models", "folder")
    from likeness.demo_base import small_pipeline

    pipeline = small_pipeline(model_path(args.models, "bpe_simple_vocab_16e6.txt.gz"), args.config.resolution)
    pipeline.save_pretrained(args.folder)


if __name__ == "__main__":
    cli.run(main)
