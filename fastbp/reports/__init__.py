"""Floor 2: what is shown: progress, summaries, profiles and speed compared."""
