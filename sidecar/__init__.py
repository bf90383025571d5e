"""Watch the retrieval of a production RAG service and say when it has drifted."""
