"""The process: composition root, server, operations, leases, byte streams."""
