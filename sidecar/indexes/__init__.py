"""Indexes: unit vectors to rankings behind one small protocol, and how an index is built and kept on disk."""
