"""Schema migrations: what is released here never changes; a new step is a new file in ``versions``."""
