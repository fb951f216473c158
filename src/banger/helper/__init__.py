"""The privileged process: a few typed verbs, their validation, a client, and a twin for a daemon that is root itself."""
