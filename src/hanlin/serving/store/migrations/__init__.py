"""Revisions of the tables, in the order that each one names."""
