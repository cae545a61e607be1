"""Learning together: cohorts, aggregation, and Flower apps driven over MQTT."""
