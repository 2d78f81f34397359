"""Small, seeded, randomly initialised open_clip checkpoints, saved to disk and loaded through open_clip's real path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VIT = {"image_size": 64, "layers": 3, "width": 48, "head_width": 16, "patch_size": 16}

#: Architectures by the name they get in open_clip.
CONFIGS: dict[str, dict[str, Any]] = {
    "tiny-vit": {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT},
    "tiny-vit-quickgelu": {"embed_dim": 24, "quick_gelu": True, "vision_cfg": VIT, "text_cfg": TEXT},
    "tiny-resnet": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
        "text_cfg": TEXT,
    },
    "tiny-timm": {
        "embed_dim": 24,
        "vision_cfg": {
            "timm_model_name": "test_convnext",
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": 160,
        },
        "text_cfg": TEXT,
    },
    # A trunk whose own classifier is the projection.
    "tiny-timm-vit": {
        "embed_dim": 24,
        "vision_cfg": {
            "timm_model_name": "test_vit",
            "timm_pool": "token",
            "timm_proj": None,
            "image_size": 160,
        },
        "text_cfg": TEXT,
    },
    # As SigLIP: pooled without projection, texts read both ways, the last place pooled.
    "tiny-sigmoid": {
        "embed_dim": 64,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "timm_model_name": "test_vit",
            "timm_pool": "avg",
            "timm_proj": "none",
            "image_size": 160,
        },
        "text_cfg": {
            **TEXT,
            "context_length": 24,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
        },
    },
    "tiny-coca": {
        "embed_dim": 24,
        "multimodal_cfg": {"width": 24, "context_length": 76, "vocab_size": 49408, "layers": 1, "heads": 2},
        "vision_cfg": {**VIT, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": {**TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True},
        "custom_text": True,
    },
    "tiny-attention": {  # open_clip's own attention blocks
        "embed_dim": 24,
        "vision_cfg": {**VIT, "qk_norm": True, "scale_attn": True},
        "text_cfg": {**TEXT, "qk_norm": True},
    },
}


def install(folder: Path) -> None:
    """Write the configs where open_clip finds them, and tell it."""
    import open_clip

    folder.mkdir(parents=True, exist_ok=True)
    for name, config in CONFIGS.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


def make(name: str, seed: int = 0) -> Any:
    """Build an architecture with seeded random weights, none of them at a special value."""
    import open_clip
    import torch

    torch.manual_seed(seed)
    model = open_clip.create_model(name, pretrained_text=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Norms of one and biases of nought would hide a layer that was left out.
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def save(model: Any, path: Path) -> Path:
    """Save a model's weights as `path`'s suffix says."""
    import torch
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    state = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def save_text_model(folder: Path, words: list[str]) -> Path:
    """Write a tiny BERT's config and a word-piece tokenizer, as a hub lays them out."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words, *letters, *("##" + c for c in letters)]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64, **special})
    )
    (folder / "config.json").write_text(
        json.dumps(
            {
                "model_type": "bert",
                "vocab_size": len(vocabulary),
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 64,
                "max_position_embeddings": 64,
                "pad_token_id": 0,
            }
        )
    )
    return folder
