"""The rules of the catalogue, a module for each family of functions."""
