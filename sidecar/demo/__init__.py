"""The demo: a small real RAG service, its traffic, and an encoder upgrade that goes wrong."""
