"""Preferences for training, from what users say of answers in production."""
