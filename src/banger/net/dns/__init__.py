"""The server that answers for names of machines, with two faces: one for this host, one for the guests."""
