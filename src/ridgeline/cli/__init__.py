"""Command line: one file per verb. Each verb imports what it needs when it runs, so help answers at once."""
