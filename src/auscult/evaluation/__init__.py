"""How well do the scores tell normal from anomalous clips, and who is averaged with whom."""
