"""One module per step, named ``rNNNN_what``; each knows the step before it."""
