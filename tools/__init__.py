"""Tools of the working tree: getting real parts, running them, the demo and generators; never imported by the product."""
