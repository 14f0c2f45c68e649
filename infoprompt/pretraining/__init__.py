"""Pretraining of the table that instance-wise prompts look up (IPT, arXiv 2206.01958)."""
