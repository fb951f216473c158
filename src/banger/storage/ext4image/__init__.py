"""Writing a tree as a finished ext4 image, without mounting anything, without root and without other programs."""
