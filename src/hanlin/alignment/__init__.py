"""Floor 4: from a model that answers to one that answers as people want."""
