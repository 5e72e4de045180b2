"""Kernels that make a step of :class:`laprop.LaProp` in one pass over memory."""
