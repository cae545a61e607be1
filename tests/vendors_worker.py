"""A vendor's build, played: the shipped worker with an accelerator for which it compiles.

Started as ``vendors_worker.py PATH-OF-THE-SHIPPED-WORKER``. It says that it runs the model
with the first provider that is wanted, and computes on the processor; a folder for engines that
is empty costs it two seconds.
"""

import importlib.util
import sys
import time
from pathlib import Path


def main() -> None:
    spec = importlib.util.spec_from_file_location("onnx_worker", sys.argv.pop(1))
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)

    class Compiling(worker.OnnxModel):
        def __init__(self, asked) -> None:
            wanted = asked.providers.split(",")[0]
            engine = Path(asked.cache) / "model.engine"
            if asked.cache and not engine.exists():
                time.sleep(2.0)
                engine.write_bytes(bytes(1000))
            asked.providers = "CPUExecutionProvider"
            super().__init__(asked)
            self.providers = [wanted]

    asked = worker.reader().parse_args()
    worker.serve(asked.socket, Compiling(asked))


if __name__ == "__main__":
    main()
