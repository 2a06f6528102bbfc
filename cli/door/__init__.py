"""The door: the one package that every byte from a hub passes before a command shows, stores or signs anything with it.

Here belongs the connection, strict reading of answers into typed values, walking through pages within bounds, and
verification of documents by the floored keyring. What leaves this package is a typed value that says whether anybody
vouches for it; raw answers do not leave it. Nothing here decides what is signed.
"""
