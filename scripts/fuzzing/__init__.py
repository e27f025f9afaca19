"""Fuzzers: damaged inputs for every reader, and random plans and services against the laws they must keep.

Not part of the package: run them with ``sh scripts/fuzz``. They need a Unix-like system (resource limits, signals).
"""
