"""Tools of the working tree: real parts, running them, demo, generators; the product never imports them."""
