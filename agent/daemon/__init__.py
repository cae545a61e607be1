"""The running agent: one loop over one inbox, and the rooms it joins together.

``loop`` starts, dispatches and stops; ``desired`` turns signed documents into wishes;
``updating`` performs the effects of the update machine; ``serving`` keeps inference
going; ``judging`` gathers the evidence of a probation; ``reporting`` is everything that
goes out; ``learning`` takes part in rounds; ``agenda`` is what happens later; ``host`` is
what the operating system wants of a service.
"""
