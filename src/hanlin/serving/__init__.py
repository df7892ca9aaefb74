"""Floor 5: the service. A model behind an OpenAI-compatible API, with keys and limits, pages and a feedback store."""
