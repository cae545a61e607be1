"""Models asked over HTTP by the Open Inference Protocol; the only place with an event loop.

A connection (``connection``) parses HTTP within limits; who may come in is decided at the
door (``door``); a request finds its route (``routes``) and is answered at the desk (``desk``),
on the loop where a model is known to be quick and in the lane of its slot (``lanes``) where
it is not. ``sockets`` opens what is listened on, ``endpoint`` is the thread of it all.
"""
