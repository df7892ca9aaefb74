"""Floor 5: the service. A model behind an OpenAI-compatible API, with keys and limits,
a chat page and a feedback store.

launch.py (settings.py) ─ models.py (versions; runs.py) ─ api/ (HTTP) ─ keys.py ─ store/ (the database)
"""
