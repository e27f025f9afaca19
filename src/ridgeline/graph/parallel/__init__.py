"""One parallel axis, one file, one pass over a block: divide dimensions, add messages."""
