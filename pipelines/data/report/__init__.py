"""How clean, comprehensive and consistent a dataset is: figures, checks, samples and plots, as one page and as JSON."""
