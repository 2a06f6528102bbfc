"""One real agent process on a real control plane, with the real policy engine."""
