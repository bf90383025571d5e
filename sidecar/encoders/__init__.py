"""Encoders: text to unit vectors behind one small protocol, and the fingerprint that tells them apart."""
