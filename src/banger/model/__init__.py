"""The words everybody shares: records, states, names, sizes, errors, op ids. Standard library only."""
