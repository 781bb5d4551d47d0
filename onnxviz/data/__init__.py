"""What a model is shown: images, what they show, pixel labels, and the data that the package brings."""
