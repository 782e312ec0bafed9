"""Paired tests of two models on the same items. Pure: numpy alone."""
