"""Reward models: one file a method. Each is a pure fold, see `genreward_wrappers.core`."""
