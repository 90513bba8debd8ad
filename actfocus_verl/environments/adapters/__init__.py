"""Worlds of other libraries behind the interface of `World`; the README says which, and what they do not promise."""
