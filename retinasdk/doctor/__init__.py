"""Finds out what this machine has, what works on it, and what is missing."""
