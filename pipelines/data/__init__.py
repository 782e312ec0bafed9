"""Raw documents to a dataset."""
