"""Code that a model wrote: its items, and the sandbox in which its tests run."""
