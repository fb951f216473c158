"""A git repository in, a patch out. Runs in the caller's own process: the daemon never reads or writes a repository."""
