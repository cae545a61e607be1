"""The light stand-in for flwr: unmodified sources, the same replies as with the real one."""

import numpy as np
import pytest
from flwr import app as real

from agent.contract.tensors import (
    ArrayRecord,
    ConfigRecord,
    FlowerMessage,
    Metadata,
    decode_message,
    encode_message,
)
from agent.learn.apps.running import run_app
from agent.learn.stand_in import records
from agent.learn.stand_in.client_app import ClientApp
from agent.learn.stand_in.legacy import NumPyClient
from agent.learn.stand_in.messages import (
    Context,
    Message,
    read_message,
    read_state,
    write_message,
    write_state,
)
from tests.small_apps import HALVING, body, order, own_interpreter, train_message

KEEPING = body("""
held = context.state.config_records.get("held")
seen = held["seen"] if held else 0
message.content["was"] = ConfigRecord({"seen": seen, "name": "ä", "l": [1, 2]})
context.state["held"] = ConfigRecord({"seen": 1})
context.state["best"] = ArrayRecord([np.ones(3)])
message.content["flat"] = ArrayRecord(message.content["arrays"].to_numpy_ndarrays())
""")


def contents(reply):
    return {
        name: {
            k: (v.dtype.name, v.tolist()) if isinstance(v, np.ndarray) else v
            for k, v in record.items.items()
        }
        for name, record in decode_message(reply).content.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("source", [HALVING, KEEPING])
def test_one_source_replies_alike_with_the_stand_in_and_with_flwr(tmp_path, source):
    light = run_app(order(tmp_path, source))
    real_one = run_app(order(tmp_path, source, interpreter=own_interpreter(flwr=True)))
    assert contents(light.reply) == contents(real_one.reply)
    crossed = run_app(order(tmp_path, source, state=real_one.state))
    back = order(tmp_path, source, state=light.state, interpreter=own_interpreter(flwr=True))
    assert contents(crossed.reply) == contents(run_app(back).reply)


GIVEN = [
    ("Array", (np.zeros(3),)),
    ("Array", ("float32", (1,), "numpy.ndarray", b"")),
    ("Array", ("float32", (1,))),
    ("Array", ([1.0, 2.0],)),
    ("ArrayRecord", ([np.zeros(2), np.ones(1)],)),
    ("ArrayRecord", ([[1.0]],)),
    ("ArrayRecord", ({"a": np.zeros(2)},)),
    ("ArrayRecord", ((np.zeros(2),),)),
    ("MetricRecord", ({"a": 1, "b": 0.5, "c": [1, 2]},)),
    ("MetricRecord", ({"a": "text"},)),
    ("MetricRecord", ({"a": [1, 2.0]},)),
    ("MetricRecord", ({"a": None},)),
    ("ConfigRecord", ({"a": "text", "b": b"bytes", "c": True, "d": ["x"]},)),
    ("ConfigRecord", ({"a": {"b": 1}},)),
    ("ConfigRecord", ({"a": np.zeros(2)},)),
    ("RecordDict", ({"a": "text"},)),
    ("RecordDict", ({1: None},)),
]


@pytest.mark.parametrize(
    ("kind", "given"), GIVEN, ids=[f"{k}-{n}" for n, (k, _) in enumerate(GIVEN)]
)
def test_what_flwr_takes_is_taken_and_what_it_refuses_is_refused(kind, given):
    outcomes = []
    for module in (real, records):
        try:
            outcomes.append(len(vars(getattr(module, kind)(*given))) >= 0)
        except TypeError:
            outcomes.append("refused")
    assert outcomes[0] == outcomes[1]


def asked(kind="train", **records_by_name):
    metadata = Metadata(run_id=7, message_id="m", src_node_id=1, dst_node_id=5, message_type=kind)
    return read_message(encode_message(FlowerMessage(metadata=metadata, content=records_by_name)))


def context(**changes):
    fields = {"run_id": 7, "node_id": 5, "node_config": {}, "run_config": {}}
    return Context(state=records.RecordDict(), **{**fields, **changes})


class Halving(NumPyClient):
    def __init__(self, name) -> None:
        self.name = name

    def fit(self, parameters, config):
        return [p / 2 for p in parameters], 4, {"rate": config["lr"], "name": self.name}

    def evaluate(self, parameters, config):
        return float(parameters[0].sum()), 3, {"accuracy": config["lr"]}


def legacy_message(kind, name):
    arrays = ArrayRecord({"0": np.arange(4.0), "1": np.ones((2, 2), np.float32)})
    settings = ConfigRecord({"lr": 0.1})
    return asked(kind, **{f"{name}.parameters": arrays, f"{name}.config": settings})


@pytest.mark.parametrize("by_name", [False, True], ids=["of a context", "of a cid"])
def test_a_legacy_numpy_client_trains_and_evaluates(by_name):
    if by_name:
        app = ClientApp(client_fn=lambda cid: Halving(cid).to_client())
    else:
        app = ClientApp(client_fn=lambda context: Halving(str(context.node_config["partition-id"])))
    here = context(node_config={"partition-id": 2})
    trained = app(legacy_message("train", "fitins"), here).content
    assert trained["fitres.num_examples"] == {"num_examples": 4}
    assert trained["fitres.metrics"] == {"rate": 0.1, "name": "2"}
    assert trained["fitres.status"]["code"] == 0
    assert trained["fitres.parameters"].to_numpy_ndarrays()[0].tolist() == [0.0, 0.5, 1.0, 1.5]
    judged = app(legacy_message("evaluate", "evaluateins"), here).content
    assert judged["evaluateres.loss"] == {"loss": 6.0}
    with pytest.raises(ValueError, match="query"):
        app(asked("query"), here)


def test_mods_wrap_an_answer_from_the_outside_in_and_the_lifespan_around_them():
    trace = []

    def mod(name):
        def wrap(message, context, inner):
            trace.append(name)
            return inner(message, context)

        return wrap

    app = ClientApp(mods=[mod("outer")])

    @app.lifespan()
    def lifespan(context):
        trace.append("begins")
        yield
        trace.append("ends")

    @app.train("again", mods=[mod("inner")])
    def train(message, context):
        trace.append("trains")
        return Message(message.content, reply_to=message)

    app(asked("train.again"), context())
    assert trace == ["begins", "outer", "inner", "trains", "ends"]
    with pytest.raises(ValueError, match="No train function registered with name 'default'"):
        app(asked("train"), context())


def test_an_array_that_an_app_changes_is_its_own():
    message = read_message(train_message())
    taken = message.content["arrays"]["weight"].numpy()
    taken += 1
    assert message.content["arrays"]["weight"].numpy()[0, 0] == 0


def test_records_of_one_kind_change_the_whole():
    whole = records.RecordDict({"m": records.MetricRecord({"a": 1})})
    whole.config_records["c"] = records.ConfigRecord({"b": "x"})
    del whole.metric_records["m"]
    assert list(whole) == ["c"]
    with pytest.raises(TypeError, match="ConfigRecord"):
        whole.config_records["c"] = records.MetricRecord({})


def test_a_state_of_nothing_takes_no_bytes_and_any_other_survives():
    assert write_state(records.RecordDict()) == b""
    assert not read_state(b"")
    kept = records.RecordDict({"a": records.ArrayRecord([np.arange(3)])})
    assert read_state(write_state(kept))["a"]["0"].numpy().tolist() == [0, 1, 2]


def test_a_message_made_of_nothing_on_a_device_is_refused():
    with pytest.raises(TypeError, match="reply_to"):
        Message(records.RecordDict())
    with pytest.raises(TypeError, match="content or an error"):
        Message(reply_to=asked())
    reply = Message(records.RecordDict(), reply_to=asked(), ttl=5)
    assert reply.metadata.ttl <= 5
    assert write_message(reply)
