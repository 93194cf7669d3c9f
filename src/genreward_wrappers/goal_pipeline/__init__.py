"""From videos to goal bundles."""
