"""The configurations of a published checkpoint, without its weights.

Those of THUDM/CogVideoX-5b-I2V, as its repository has them; of the text encoder's, what
decides its shape. A folder of them passes every check that is made before weights are
read.
"""

from __future__ import annotations

import json

import numpy as np

INDEX = {
    "_class_name": "CogVideoXImageToVideoPipeline",
    "_diffusers_version": "0.31.0.dev0",
    "scheduler": ["diffusers", "CogVideoXDDIMScheduler"],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "T5Tokenizer"],
    "transformer": ["diffusers", "CogVideoXTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLCogVideoX"],
}

TRANSFORMER = {
    "_class_name": "CogVideoXTransformer3DModel",
    "_diffusers_version": "0.31.0.dev0",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 64,
    "dropout": 0.0,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 32,
    "max_text_seq_length": 226,
    "norm_elementwise_affine": True,
    "norm_eps": 1e-05,
    "num_attention_heads": 48,
    "num_layers": 42,
    "out_channels": 16,
    "patch_size": 2,
    "sample_frames": 49,
    "sample_height": 60,
    "sample_width": 90,
    "spatial_interpolation_scale": 1.875,
    "temporal_compression_ratio": 4,
    "temporal_interpolation_scale": 1.0,
    "text_embed_dim": 4096,
    "time_embed_dim": 512,
    "timestep_activation_fn": "silu",
    "use_learned_positional_embeddings": True,
    "use_rotary_positional_embeddings": True,
}

VAE = {
    "_class_name": "AutoencoderKLCogVideoX",
    "_diffusers_version": "0.31.0.dev0",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 256, 512],
    "down_block_types": ["CogVideoXDownBlock3D"] * 4,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": 16,
    "latents_mean": None,
    "latents_std": None,
    "layers_per_block": 3,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_height": 480,
    "sample_width": 720,
    "scaling_factor": 0.7,
    "shift_factor": None,
    "temporal_compression_ratio": 4,
    "up_block_types": ["CogVideoXUpBlock3D"] * 4,
    "use_post_quant_conv": False,
    "use_quant_conv": False,
}

TEXT_ENCODER = {
    "architectures": ["T5EncoderModel"],
    "model_type": "t5",
    "d_ff": 10240,
    "d_kv": 64,
    "d_model": 4096,
    "decoder_start_token_id": 0,
    "dense_act_fn": "gelu_new",
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "is_gated_act": True,
    "layer_norm_epsilon": 1e-06,
    "num_decoder_layers": 24,
    "num_heads": 64,
    "num_layers": 24,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "vocab_size": 32128,
}

SCHEDULER = {
    "_class_name": "CogVideoXDDIMScheduler",
    "_diffusers_version": "0.31.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "sample_max_value": 1.0,
    "set_alpha_to_one": True,
    "snr_shift_scale": 1.0,
    "steps_offset": 0,
    "timestep_spacing": "trailing",
    "trained_betas": None,
}


def write_cogvideox(folder):
    """The folder that a download would leave, with files of weights that are empty."""
    from safetensors.numpy import save_file

    from tests.video_pipelines import make_t5_tokenizer

    files = {
        "model_index.json": INDEX,
        "scheduler/scheduler_config.json": SCHEDULER,
        "text_encoder/config.json": TEXT_ENCODER,
        "transformer/config.json": TRANSFORMER,
        "vae/config.json": VAE,
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    # Two shards, as the large parts come.
    stem = "diffusion_pytorch_model"
    shards = [f"{stem}-{i:05d}-of-00002.safetensors" for i in (1, 2)]
    for name in shards:
        save_file({name[:8]: np.zeros(1)}, folder / "transformer" / name)
    index = {"weight_map": {f"part {i}": name for i, name in enumerate(shards)}}
    path = folder / "transformer" / f"{stem}.safetensors.index.json"
    path.write_text(json.dumps(index))
    save_file({"none": np.zeros(1)}, folder / "text_encoder" / "model.safetensors")
    save_file({"none": np.zeros(1)}, folder / "vae" / f"{stem}.safetensors")
    # Its own is a model of sentencepiece; what counts here is its length.
    make_t5_tokenizer().save_pretrained(folder / "tokenizer")
    return folder


def on_meta(folder):
    """The pipeline with every part of its full size, and no weights."""
    import diffusers
    import torch
    import transformers

    from tests.video_pipelines import make_t5_tokenizer

    def config(part):
        return json.loads((folder / part / "config.json").read_text())

    with torch.device("meta"):
        transformer = diffusers.CogVideoXTransformer3DModel.from_config(
            config("transformer")
        )
        vae = diffusers.AutoencoderKLCogVideoX.from_config(config("vae"))
        text_encoder = transformers.T5EncoderModel(
            transformers.T5Config(**config("text_encoder"))
        )
    return diffusers.CogVideoXImageToVideoPipeline(
        tokenizer=make_t5_tokenizer(),
        text_encoder=text_encoder,
        vae=vae,
        transformer=transformer,
        scheduler=diffusers.CogVideoXDDIMScheduler.from_config(SCHEDULER),
    )
