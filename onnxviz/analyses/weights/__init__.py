"""Kernels of convolutions and their statistics."""
