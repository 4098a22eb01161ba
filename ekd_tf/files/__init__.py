"""Bytes on disk, no model: written whole, read by position, never trusted."""
