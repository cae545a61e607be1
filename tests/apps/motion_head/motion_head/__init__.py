"""The server side of an app whose devices train the head of the model that they run."""
