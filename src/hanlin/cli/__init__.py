"""Floor 7: the `hanlin` command. One file a verb, no logic of its own."""
