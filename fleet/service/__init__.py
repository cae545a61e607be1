"""Use cases: the only place that combines chapters, one transaction each.

``desk`` is what a use case may touch; ``membership``, ``releases``, ``rollouts``,
``runs`` and ``overview`` are the use cases by chapter; ``inbox`` records what devices
say; ``loop`` is the running manager; ``founding`` makes a new one.
"""
