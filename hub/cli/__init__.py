"""``cellward``, the command line: talks to the admin API and signs locally with keys the hub never sees.

One module per noun. Of the hub it may import only ``hub.api.schemas``. Data goes to stdout, everything else to stderr;
libraries that cost start-up time are imported inside the commands that need them.
"""
