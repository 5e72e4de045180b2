"""The versions, in a file of their own so that building the package need not import torch."""

__version__ = "0.1.0"

# Raise this number when a step with the same options gives other numbers than before. It is part
# of the key of each experiment's run, so runs under an older number are not used again.
RULES = 1
