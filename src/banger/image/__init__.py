"""Images and kernels: catalog, recipes, building, publishing."""
