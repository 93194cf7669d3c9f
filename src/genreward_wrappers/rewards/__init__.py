"""Reward models, one file a method: pure folds, as `core` has it."""
