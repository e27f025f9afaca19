"""F7: measured points of serving against prediction."""
