"""Environments to train in; importing this package imports no simulator."""
