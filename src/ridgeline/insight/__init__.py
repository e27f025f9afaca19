"""F6: why a prediction is what it is, and what would change it."""
