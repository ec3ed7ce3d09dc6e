"""What stands on the encoder and says the label."""
