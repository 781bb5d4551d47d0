"""Layer-wise relevance propagation: a score, divided among what it is made of, layer by layer, back to the pixels."""
