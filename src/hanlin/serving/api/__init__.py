"""The HTTP service: OpenAI's API over the engine.

app.py puts it together ─ guard.py (what every request passes) ─ errors.py, body.py (JSON), auth.py (who asks)
protocol.py (requests), replies.py (answers) ─ chat.py, completions.py, embeddings.py, texts.py (tokens), admin.py
generation.py (runs a request in the engine) ─ stream.py (server-sent events) ─ health.py, metrics.py
server.py (uvicorn: slow clients, draining)
"""
