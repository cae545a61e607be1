"""This device on its owner's own broker: samples, predictions, requests, Home Assistant."""
