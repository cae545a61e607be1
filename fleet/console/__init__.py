"""The web console, a surface over the service; its pages come with a later release."""
