"""``./dev release``: makes what ``banger update`` installs."""
