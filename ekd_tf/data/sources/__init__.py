"""Image sources, a module per format."""
