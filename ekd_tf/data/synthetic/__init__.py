"""Faces drawn by code: the data set that is always there."""
