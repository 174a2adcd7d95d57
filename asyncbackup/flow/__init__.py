"""How work flows: channels between stages, the byte budget, the thread gate, the request to stop."""
