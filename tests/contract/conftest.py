"""Failures of the contract suite, which is no test module by itself, tell what was compared."""

from __future__ import annotations

import pytest

# The names stand here once more: importing MODULES would import the suite before it is rewritten.
for _name in ("engine_contract", "contract_base", "contract_model", "contract_watches", "contract_writes"):
    pytest.register_assert_rewrite(f"flashcast.testing.{_name}")
