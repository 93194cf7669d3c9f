"""Know a reward before training on it."""
