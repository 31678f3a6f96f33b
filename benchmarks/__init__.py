"""Comparisons with the official code, one command each; see README.md."""
