"""Small random pipelines of diffusers' own classes."""

from __future__ import annotations

import torch

WORDS = ("a", "red", "disc", "robot", "arm", "moves", "walks")
#: Tokens that the small text models read, the two at the ends included.
LENGTH = 8


def make_tokenizer():
    """A CLIP tokenizer that knows a few words."""
    from transformers import CLIPTokenizer

    letters = sorted({letter for word in WORDS for letter in word})
    pieces, merges = [*letters, *(f"{letter}</w>" for letter in letters)], []
    for word in WORDS:
        # Byte pairs are merged from the left; a word's last piece says so.
        left = word[0]
        for i, letter in enumerate(word[1:], 1):
            right = letter if i < len(word) - 1 else f"{letter}</w>"
            merges.append((left, right))
            pieces.append(left + right)
            left += right
    special = ["<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys([*special, *pieces]))}
    return CLIPTokenizer(
        vocab=vocab, merges=list(dict.fromkeys(merges)), model_max_length=LENGTH
    )


def make_text_encoder(tokenizer, projection=False):
    """A CLIP text tower of one layer."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        projection_dim=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    kind = CLIPTextModelWithProjection if projection else CLIPTextModel
    return kind(config)


def make_vae():
    """A VAE that halves the sides once."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )


def unet_options(**changes):
    """The shape of a small U-net: 8x8 latents, one halving."""
    return {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 16,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
        **changes,
    }


def make_scheduler(prediction="epsilon", kind="DDIMScheduler"):
    import diffusers

    options = {"clip_sample": False} if kind == "DDIMScheduler" else {}
    return getattr(diffusers, kind)(
        **options,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        prediction_type=prediction,
    )


def parts(prediction="epsilon", scheduler="DDIMScheduler"):
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    return {
        "vae": make_vae(),
        "text_encoder": make_text_encoder(tokenizer),
        "tokenizer": tokenizer,
        "scheduler": make_scheduler(prediction, scheduler),
    }


def stable_diffusion(prediction="epsilon", scheduler="DDIMScheduler", **unet):
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    return StableDiffusionPipeline(
        **parts(prediction, scheduler),
        unet=UNet2DConditionModel(**unet_options(**unet)),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl():
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

    made = parts()
    tokenizer = made["tokenizer"]
    return StableDiffusionXLPipeline(
        **made,
        text_encoder_2=make_text_encoder(tokenizer, projection=True),
        tokenizer_2=tokenizer,
        unet=UNet2DConditionModel(
            **unet_options(
                cross_attention_dim=32,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + 16,
            )
        ),
    )


def pixart():
    from diffusers import PixArtAlphaPipeline, PixArtTransformer2DModel

    class Texts(torch.nn.Module):
        """Stands for T5, which takes a mask and gives a tuple."""

        dtype, device = torch.float32, torch.device("cpu")

        def __init__(self, count):
            super().__init__()
            self.table = torch.nn.Embedding(count, 16)

        def forward(self, ids, attention_mask):
            return (self.table(ids),)

    made = parts()
    del made["text_encoder"]
    pipeline = PixArtAlphaPipeline(
        **made,
        text_encoder=None,
        transformer=PixArtTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=1,
            cross_attention_dim=16,
            caption_channels=16,
            sample_size=8,
            patch_size=2,
            use_additional_conditions=False,
        ),
    )
    pipeline.text_encoder = Texts(len(made["tokenizer"]))
    return pipeline


def animatediff():
    from diffusers import AnimateDiffPipeline, MotionAdapter, UNet2DConditionModel

    return AnimateDiffPipeline(
        **parts(),
        unet=UNet2DConditionModel(**unet_options()),
        motion_adapter=MotionAdapter(
            block_out_channels=(8, 16),
            motion_layers_per_block=1,
            motion_num_attention_heads=2,
            motion_norm_num_groups=4,
            motion_max_seq_length=8,
        ),
    )
