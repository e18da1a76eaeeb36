"""How fast, how large, and how far from the limit, on whatever machine this is."""
