"""Gradients of a net's arrays and inputs, and the squares of them that rates are made from."""
