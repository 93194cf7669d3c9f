"""Forward-backward representations: how likely (s, a) is to reach a state."""
