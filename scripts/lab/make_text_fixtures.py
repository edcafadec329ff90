"""Make the tiny text encoders that tests compare with, and what transformers answers with them.

pip install transformers
python scripts/lab/make_text_fixtures.py tests/text_towers
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

TEXTS = ["go left", "push the red block into the left zone and then go right", "right"]
WORDS = ["<pad>", "</s>", "<s>", *sorted({word for text in TEXTS for word in text.split()})]


def main() -> None:
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    torch.manual_seed(0)
    clip = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    clip |= {"max_position_embeddings": 20, "vocab_size": len(WORDS), "eos_token_id": 1, "bos_token_id": 2}
    t5 = {"d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_heads": 2, "vocab_size": len(WORDS)}
    t5 |= {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 10, "dropout_rate": 0.0}
    models = {
        "clip": CLIPTextModel(CLIPTextConfig(**clip)),
        "t5": T5EncoderModel(T5Config(**t5)),
        "t5_gated": T5EncoderModel(T5Config(**t5, feed_forward_proj="gated-gelu")),
    }
    for name, model in models.items():
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
        folder = Path(sys.argv[1]) / name
        model.eval().save_pretrained(folder)
        words = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<pad>"))
        words.pre_tokenizer = Whitespace()
        ends = "<s> $A </s>" if name == "clip" else "$A </s>"
        words.post_processor = TemplateProcessing(single=ends, special_tokens=[("<s>", 2), ("</s>", 1)])
        words.save(str(folder / "tokenizer.json"))
        with torch.no_grad():
            said = [model(torch.tensor([words.encode(text).ids])).last_hidden_state[0] for text in TEXTS]
        np.savez(folder / "expected.npz", **{f"text{k}": one.numpy() for k, one in enumerate(said)})


if __name__ == "__main__":
    main()
