"""How the weights are fitted."""
