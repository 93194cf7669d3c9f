"""Video pipelines, and the goals they make."""
