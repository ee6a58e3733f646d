"""Training jobs that users run: the scope classifier on their own examples."""
