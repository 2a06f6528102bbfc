"""``make demo``: the main job of Cellward on real parts, narrated step by step and checked.

Here belongs only what the demonstration needs: starting the parts, telling what each step proves, playing the
attacker, and summing up. Nothing in the product may import from here.
"""
