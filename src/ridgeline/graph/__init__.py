"""F2: what a model asks of a machine: operators, messages and memory, free of any machine."""
