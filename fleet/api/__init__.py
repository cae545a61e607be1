"""The HTTP surface over the service, on a Unix socket."""
