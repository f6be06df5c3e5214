"""The real and the generated set: which images, which crops, which pairs."""
