"""The Python surface and what the command line shares with it: from words to a scenario, from a scenario to a
result that can be printed, drawn, saved and run again. Import it as ``import ridgeline as rl``."""
