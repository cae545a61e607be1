"""What somebody has had the broker keep where nothing is to be kept.

mosquitto lets whoever may write to a topic also retain there, for ever and in any number:
a stranger below ``enrol/req``, a device below its own ``up``. Such messages outlive whoever
left them, fill the broker and come back at each start of the manager.

Rule 1: only a channel that is retained by its definition may hold something.
Rule 2: the manager takes away what it sees lying; it sees all of it, since it subscribes to
        both trees with the flag of how each message was published.
"""

from agent.contract.topics import Topics
from agent.errors import MalformedError
from fleet.ingest.mail import Arrived, Message


def take_away(topics: Topics, message: Arrived) -> Message | None:
    """Return the message that has the broker forget this one, where it must."""
    if not message.retained or not message.payload:
        return None
    try:
        kept = topics.read(message.topic).channel.retain
    except MalformedError:
        kept = False
    return None if kept else Message(topic=message.topic, payload=b"", qos=1, retain=True)
