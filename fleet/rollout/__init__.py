"""Who gets it next: selection, waves, gates, and the pure rollout engine."""
