"""The running agent: one loop over one inbox, and the rooms it joins together.

Around the loop: ``running`` begins and ends a life, ``opening`` reads the state directory,
``rooms`` joins the rooms (``answering``, ``ways`` and ``releases`` each those of one errand),
``loop`` starts, dispatches and stops, ``agenda`` is what happens later, ``moments`` are the
clocks, ``host`` is what the operating system wants of a service.

The rooms: ``desired`` turns signed documents into wishes, with ``refreshing`` (and its
``gathering``) for what is trusted, and ``timekeeping`` for signed time; ``updating`` performs
the effects of the update machine, with ``transfers`` for artifacts; ``serving`` keeps
inference going; ``judging`` gathers the evidence of a probation; ``evaluating`` tells the
quality of what runs; ``learning`` takes part in rounds, ``round_models`` fetches the arrays
that their tasks share, ``round_coding`` and ``round_answers`` say how what was learned is
sent; ``children`` are the processes they start; ``reporting`` is everything that goes out,
``state`` what of it is retained;
``finding`` keeps to an endpoint of the fleet, ``certifying`` to a certificate for it;
``bundles`` are updates brought by hand.

Without a loop: ``enrolling`` and ``status``, for the two other commands.
"""
