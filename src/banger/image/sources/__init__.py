"""Where images come from: one module per kind of source, one interface (``protocol.py``), and ``choose.py`` that tells them apart."""
