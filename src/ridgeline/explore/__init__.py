"""F7: search of the plan space."""
