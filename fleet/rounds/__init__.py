"""Learning together: cohorts, screened replies, and Flower apps driven over MQTT."""
