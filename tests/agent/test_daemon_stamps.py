"""Numbers of state messages and of reports are never confused, on either side."""

from nacl.signing import SigningKey

from agent.contract.envelope import Boot, Stamp, check_report
from agent.contract.topics import PRESENCE
from agent.daemon.reporting import Signer
from fleet.registry.reports import STATE_SEQUENCES

BOOT = Boot(3, "00ff00ff00ff00ff")


def test_state_is_numbered_from_where_no_report_ever_comes():
    key = SigningKey.generate()
    signer = Signer(key, "d-one", BOOT, "0.1")
    said = [signer.presence("online", 1), signer.will(2), signer.presence("offline", 2)]
    stamps = [Stamp.read(message.properties) for message in said]
    assert [stamp.sequence for stamp in stamps] == [STATE_SEQUENCES + n for n in range(3)]
    for message, stamp in zip(said, stamps, strict=True):
        assert stamp.boot == BOOT
        check_report(key.verify_key, PRESENCE.at("d-one").logical, stamp, message.payload)
