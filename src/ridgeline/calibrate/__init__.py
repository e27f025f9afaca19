"""F7: hold predictions to measured runs. A predictor always comes in as an argument."""
