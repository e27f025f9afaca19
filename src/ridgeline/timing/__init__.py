"""F3: demand and hardware to seconds and joules. A bound first, then a calibrated guess."""
