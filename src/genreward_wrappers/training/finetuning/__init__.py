"""Fine-tuning of video pipelines on videos of one's own environment."""
