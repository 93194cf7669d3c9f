"""Hosts: the reset and step of each world, turned into `Session.begin` and `score`."""
