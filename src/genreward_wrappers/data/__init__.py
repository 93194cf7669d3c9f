"""What is read and written: goal bundles, episodes, videos, datasets."""
