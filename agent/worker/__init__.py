"""Short-lived child processes for what must not happen inside the running agent.

``refresh`` runs python-tuf (which would wait for its own fetch, and whose memory an
idle agent does not need), ``check`` loads a model that nobody has loaded here before and
measures it on the labelled windows, ``probe`` makes one real inference with each runtime,
``learn`` does one task of a federated round, ``rebuild`` makes an artifact from fewer bytes,
``unbundle`` reads an update bundle and ``unpack`` copies files of it into the store.

``jobs`` says what is asked and answered, ``start`` is the parent's side, ``child`` the
other one. A child that crashes, hangs or eats memory costs its own answer and nothing
else; it dies with the agent.
"""
