"""Layered annotation of a dataset's documents: entities and relations, and reasoning that rests on them."""
