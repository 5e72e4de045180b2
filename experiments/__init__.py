"""The paper's experiments: one file each, run by ``python -m experiments task=...``."""
