"""From the layers of a container image, or a tar archive, to an ext4 image, all of it in memory but the content of the files.

Blobs are decompressed to spool files (``spool``), their headers are read (``tar``) and merged (``tree``), and the tree is written (``storage/ext4image``).
No directory on the host ever holds the files, so nothing in an archive can reach the host, and it makes no difference who runs this.
"""
