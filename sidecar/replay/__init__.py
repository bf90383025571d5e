"""Answer each sampled query with both retrievers and compare what they give."""
