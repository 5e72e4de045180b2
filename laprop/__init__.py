"""LaProp: Adam with the momentum taken after the division by the root mean square gradient."""

from laprop import bounds, functional, schedules
from laprop.optimizer import LaProp
from laprop.version import __version__

__all__ = ["LaProp", "__version__", "bounds", "functional", "schedules"]
