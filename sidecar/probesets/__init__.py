"""Probe sets: canary inputs that never change, as folders of data."""
