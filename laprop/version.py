"""The versions, in a file of their own so that building the package need not import torch."""

__version__ = "0.1.0"

# Raised when a step with the same options gives other numbers than before. Experiments keep the
# results of a training only as long as it stays the same.
RULES = 1
