"""Test episodes of known worth."""
