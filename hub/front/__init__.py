"""What stands before every listener of the hub: who may connect, how many, and how long before saying who he is.

Nothing here reads a byte of what is sent: a connection is counted, held until its first byte, handed to the server
behind it, and cut when it takes too long to prove anything. What proves a peer belongs to the servers behind.
"""
