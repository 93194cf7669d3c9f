"""The one vocabulary of the embedded CLIP and of the goal generator's text encoder.

All words of the prompts and captions, and no others: what else a text says becomes the
unknown word, which the library warns of.
"""

from __future__ import annotations

from typing import Any

from prompts import PROMPTS

from genreward_wrappers.envs.stages import sentences

#: Tokens that the small text models read; the longest prompt has 16 words.
LENGTH = 20


def words() -> list[str]:
    """Every word, in a lasting order."""
    texts = [
        *PROMPTS.values(),
        *(text for env_id in PROMPTS for text in sentences(env_id)),
    ]
    return sorted({word for text in texts for word in text.split()})


def tokenizer() -> Any:
    """A T5 tokenizer of those words."""
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    pieces += [(f"▁{word}", -2.0) for word in words()]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=LENGTH)
