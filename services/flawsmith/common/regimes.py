"""What the regimes of In&Out prescribe, for all who ask for images."""

from __future__ import annotations

from collections.abc import Mapping

from flawsmith.common.manifests import Regime

PROMPTS: Mapping[Regime, tuple[str, ...]] = {
    Regime.ZERO_SHOT: ("skt background cracked", "skt background scratched"),
    Regime.FEW_SHOT: ("skt background",),
    Regime.FULL_SHOT: ("skt background",),
}
"""Prompts that the paper's batches were drawn from; an operator approves them first."""
