"""Synthetic faces: the data set that is always there."""
