"""The author's hands: ``cellward``, the command line. Holds keys, verifies what a hub says, signs, asks the admin API.

Knows ``cellward`` and the API's schemas (``cellward.api``), never ``hub``. One module per noun. Data goes to stdout,
everything else to stderr; libraries that cost start-up time are imported inside the commands that need them.
"""
