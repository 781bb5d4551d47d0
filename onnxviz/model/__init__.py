"""A differentiable model: its preprocessing, its conversion, and how far it is from ONNX Runtime."""
