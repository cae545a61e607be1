"""What the threads of inference have to say to the loop, as it lies on the inbox."""

from dataclasses import dataclass

from agent.contract.telemetry import Prediction
from agent.infer.loaded import Answer
from agent.infer.pipeline import Broken, Ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """One answer of a slot whose predictions are published."""

    slot: str
    answer: Answer

    def message(self, ts: int) -> Prediction:
        """Return it as it is published."""
        return Prediction(
            ts=ts,
            slot=self.slot,
            release=self.answer.release,
            label=self.answer.label,
            confidence=min(max(self.answer.confidence, 0.0), 1.0),
            latency_us=round(self.answer.latency_us),
            id=self.answer.id,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceEnded:
    """A slot gets no more samples."""

    slot: str
    end: Ended | Broken


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDied:
    """The process in which a slot's model ran has ended; it is started again."""

    slot: str
    why: str
