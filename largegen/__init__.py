"""largegen: generate large histopathology and satellite images from self-supervised embeddings."""

__version__ = "0.1.0"
