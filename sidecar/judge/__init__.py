"""Turn observations into verdicts: one judge on duty per deployment."""
