"""F4: serving: one step-time function, a closed form of steady state, and a simulation of every iteration."""
