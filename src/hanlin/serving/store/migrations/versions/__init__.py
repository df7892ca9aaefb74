"""One file a revision. They only add: nothing that a database holds is dropped or rewritten."""
