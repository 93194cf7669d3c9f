"""Small random video pipelines of diffusers' own classes, saved to folders."""

from __future__ import annotations

import torch

from benchmarks.gpu.generation import TRANSFORMER
from benchmarks.gpu.vaes import TINY

WORDS = ("push", "the", "disc", "to", "its", "target", "away")
#: Tokens that the small text models read.
LENGTH = TRANSFORMER[True]["max_text_seq_length"]


def make_t5_tokenizer():
    """A T5 tokenizer that knows a few words and, for others, letters."""
    from transformers import T5Tokenizer

    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    pieces += [(f"▁{word}", -2.0) for word in WORDS]
    pieces += [(letter, -6.0) for letter in letters]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=LENGTH)


def make_t5(tokenizer):
    """A T5 encoder of one layer."""
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=16,
            d_kv=8,
            d_ff=16,
            num_layers=1,
            num_heads=2,
        )
    )


def make_vae(blocks=4, **more):
    """A CogVideoX VAE that halves the sides three times, and time twice."""
    from diffusers import AutoencoderKLCogVideoX

    return AutoencoderKLCogVideoX(
        **{
            **TINY["CogVideoX"],
            "down_block_types": ("CogVideoXDownBlock3D",) * blocks,
            "up_block_types": ("CogVideoXUpBlock3D",) * blocks,
            "block_out_channels": (8,) * blocks,
            **more,
        }
    )


def make_transformer(channels=8, **more):
    """A CogVideoX transformer of one layer for latents of 4x6."""
    from diffusers import CogVideoXTransformer3DModel

    return CogVideoXTransformer3DModel(
        **{**TRANSFORMER[True], "in_channels": channels, **more}
    )


def cogvideox(
    scheduler="CogVideoXDDIMScheduler",
    image=True,
    vae=None,
    transformer=None,
    size=None,
    **schedule,
):
    """An image-to-video pipeline, or one of text alone; of 32x48, or size x size."""
    import diffusers

    torch.manual_seed(0)
    tokenizer = make_t5_tokenizer()
    name = "CogVideoXImageToVideoPipeline" if image else "CogVideoXPipeline"
    sides = {}
    if size is not None:
        sides = dict.fromkeys(("sample_height", "sample_width"), size // 8)
    return getattr(diffusers, name)(
        tokenizer=tokenizer,
        text_encoder=make_t5(tokenizer),
        vae=make_vae(**(vae or {})),
        transformer=make_transformer(
            8 if image else 4, **{**sides, **(transformer or {})}
        ),
        scheduler=getattr(diffusers, scheduler)(
            **{"prediction_type": "v_prediction", **schedule}
        ),
    )


def wan():
    """An image-to-video pipeline of Wan 2.2's form: no image encoder."""
    from diffusers import (
        AutoencoderKLWan,
        FlowMatchEulerDiscreteScheduler,
        WanImageToVideoPipeline,
        WanTransformer3DModel,
    )

    torch.manual_seed(0)
    tokenizer = make_t5_tokenizer()
    return WanImageToVideoPipeline(
        tokenizer=tokenizer,
        text_encoder=make_t5(tokenizer),
        vae=AutoencoderKLWan(
            base_dim=4,
            z_dim=16,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
        ),
        transformer=WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=36,
            out_channels=16,
            text_dim=16,
            freq_dim=16,
            ffn_dim=16,
            num_layers=1,
            rope_max_seq_len=32,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        image_encoder=None,
        image_processor=None,
    )


def ltx():
    """A text-to-video pipeline of LTX, whose parts also continue pictures."""
    from diffusers import (
        AutoencoderKLLTXVideo,
        FlowMatchEulerDiscreteScheduler,
        LTXPipeline,
        LTXVideoTransformer3DModel,
    )

    torch.manual_seed(0)
    tokenizer = make_t5_tokenizer()
    return LTXPipeline(
        tokenizer=tokenizer,
        text_encoder=make_t5(tokenizer),
        vae=AutoencoderKLLTXVideo(
            latent_channels=8,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
            spatio_temporal_scaling=(True, True, False, False),
            decoder_spatio_temporal_scaling=(True, True, False, False),
            decoder_inject_noise=(False,) * 5,
            upsample_residual=(False,) * 4,
            upsample_factor=(1,) * 4,
            patch_size=1,
            patch_size_t=1,
        ),
        transformer=LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=2,
            attention_head_dim=8,
            cross_attention_dim=16,
            num_layers=1,
            caption_channels=16,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05
        ),
    )
