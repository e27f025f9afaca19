"""F1: typed, frozen facts about models, chips, networks, software and published results."""
