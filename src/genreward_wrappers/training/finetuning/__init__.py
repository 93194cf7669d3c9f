"""Fine-tuning of video pipelines on videos of an environment."""
