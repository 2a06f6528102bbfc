"""The scenes of the demonstration, in the order in which they are shown; each fills in its keys of the summary."""
