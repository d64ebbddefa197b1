"""How much of each organisation is taken in, how large its share is, and whether it is paused."""
