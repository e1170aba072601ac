"""Plans and their execution: factors on values, and so on the arrays of a network."""
