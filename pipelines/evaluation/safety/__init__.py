"""Safety: bias, toxicity, refusal and privacy, a module a family: its items and its scores."""
