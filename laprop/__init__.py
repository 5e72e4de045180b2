"""LaProp: Adam with the momentum taken after the division by the root mean square gradient."""

from laprop import functional
from laprop.version import __version__

__all__ = ["__version__", "functional"]
