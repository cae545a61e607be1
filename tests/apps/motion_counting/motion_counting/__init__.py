"""The device side of an app that shrinks the head it gets, and counts how often."""
