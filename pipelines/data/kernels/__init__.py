"""Compiled loops over Arrow's UTF-8 buffers (numba, compiled once and kept on disk beside the source or in the user's cache).

A kernel takes plain arrays and fills plain arrays: no Python object a document. What each one must answer is said by the
slow functions in `tests/unit/pipelines/data/reference.py`, to which property tests hold it.
"""
