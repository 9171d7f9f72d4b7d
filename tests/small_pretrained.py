"""A small captioner and a small CLIP model of transformers' real classes, with random weights."""

from pathlib import Path

from likeness.core.pinned_models import CLIP_VOCABULARY
from likeness.models.tokenizer import clip_tokenizer

WORDS = ["a", "young", "woman", "with", "long", "hair", "beard", "hat", "smiling", "in", "front", "of", "the", "wall"]


def small_blip(folder: Path) -> Path:
    """Save a BLIP with the vocabulary WORDS as a folder."""
    import torch
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = BlipConfig(
        text_config={
            **sizes,
            **{"vocab_size": len(vocabulary), "encoder_hidden_size": 16, "max_position_embeddings": 128},
            **{"pad_token_id": 0, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3},
        },
        vision_config={**sizes, "image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    model = BlipForConditionalGeneration(config)
    model.generation_config.suppress_tokens = [0, 1, 2, 4]
    model.save_pretrained(folder)
    tokenizer = BertTokenizer(vocab={token: n for n, token in enumerate(vocabulary)})
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def small_clip(folder: Path, model_files: Path) -> Path:
    """Save a CLIP with the real vocabulary as a folder."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    tokenizer = clip_tokenizer(model_files / CLIP_VOCABULARY)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    marks = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    CLIPModel(
        CLIPConfig(
            text_config={**sizes, **marks, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id},
            vision_config={**sizes, "image_size": 32, "patch_size": 8},
            projection_dim=16,
        )
    ).save_pretrained(folder)
    side = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=side).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
