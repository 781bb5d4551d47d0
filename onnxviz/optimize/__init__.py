"""Images by gradient ascent: what is optimized, how it is written, how it is shaken and what it is held back by.

Objective, parameterization, transforms, regularizers and optimizer are independent choices of one loop
(`ascent.maximize`). The classes that describe the choices are pydantic models, so that a recipe can name them;
importing them does not import torch.
"""
