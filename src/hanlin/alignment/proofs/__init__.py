"""Each algorithm against an optimum that can be computed: policies so small that every answer can be listed.

`table.py` has the policies, `optima.py` what should be reached, `worlds.py` what the proofs share, `by_*.py` the proofs
by subject, `proofs.py` their names; `hanlin prove` runs them. What is proven is the code that trains models: its
objectives, its rollouts and its loop; only the network is a table.
"""
