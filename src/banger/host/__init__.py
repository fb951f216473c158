"""Thin layer over the operating system: run, spawn, pidfd, files, locks, paths, logs."""
