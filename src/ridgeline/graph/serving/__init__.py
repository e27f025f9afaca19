"""F2: what one step of a serving engine asks of one rank, and the memory it needs."""
