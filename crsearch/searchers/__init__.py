"""Everything that answers a query with a ranked list: one module per system. Importing the package loads none."""
