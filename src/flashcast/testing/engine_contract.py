"""The engine contract as a suite: what `engine/base.py` promises, as tests that any engine can be put through.

    class TestMyEngine(EngineContract):
        @asynccontextmanager
        async def open(self, clients=1):
            async with AsyncExitStack() as stack:
                yield [await stack.enter_async_context(MyEngine(...)) for _ in range(clients)]

It takes pytest and hypothesis, and no plugin. For readable failures, register the modules of `MODULES` with
`pytest.register_assert_rewrite` in conftest.py before they are imported.

What is not in it, for it is different for each: what survives a crash, and how an engine is cut off and comes back.
"""

from __future__ import annotations

from typing import Final

from flashcast.testing.contract_model import ModelContract
from flashcast.testing.contract_watches import WatchContract
from flashcast.testing.contract_writes import WriteContract

MODULES: Final = tuple(
    f"flashcast.testing.{name}"
    for name in ("engine_contract", "contract_base", "contract_model", "contract_watches", "contract_writes")
)


class EngineContract(WriteContract, WatchContract, ModelContract):
    """Every test of the contract. Give it `open`."""
