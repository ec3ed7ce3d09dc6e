"""The transformers that turn tokens into vectors."""
