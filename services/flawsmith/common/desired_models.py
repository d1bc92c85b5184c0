"""Which models every Triton should have loaded: the registry's wish, in the object store.

Under `{repository}-desired/` each wish is one small object, so that a listing answers everything and nothing is ever
overwritten: `{model}/keep` (until it is forgotten) or `{model}/until-{unix time}` (a candidate that is being deployed;
it lapses by itself should its deployment be cut off for good). The reconciler beside each Triton acts on them.
"""

from __future__ import annotations

import time

from flawsmith.common.object_store import ObjectStore

_KEEP = "keep"
_UNTIL = "until-"


class DesiredModels:
    """Methods block; async code uses `asyncio.to_thread`. All raise what the object store raises.

    repository: the prefix of Triton's model repository.
    """

    def __init__(self, store: ObjectStore, repository: str) -> None:
        self._store = store
        self._prefix = f"{repository}-desired/"

    def keep(self, model: str) -> None:
        """Want a model until it is forgotten."""
        self._store.put(f"{self._prefix}{model}/{_KEEP}", model.encode())

    def want_for(self, model: str, seconds: float) -> None:
        """Want a model for a while."""
        self._store.put(f"{self._prefix}{model}/{_UNTIL}{int(time.time() + seconds)}", model.encode())

    def keep_on(self, model: str, seconds: float) -> None:
        """Want a model for a while from now, unless it is wanted for half of that already."""
        wishes = [wish for name, wish in self._wishes(f"{model}/") if name == model]
        ends = [int(wish.removeprefix(_UNTIL)) for wish in wishes if wish.startswith(_UNTIL)]
        if _KEEP in wishes or max(ends, default=0) > time.time() + seconds / 2:
            return
        self.want_for(model, seconds)
        for end in ends:
            self._store.delete_key(f"{self._prefix}{model}/{_UNTIL}{end}")

    def forget(self, model: str) -> None:
        """No longer keep a model; one that is wanted for a while stays wanted that long."""
        self._store.delete_key(f"{self._prefix}{model}/{_KEEP}")

    def give_up(self, model: str) -> None:
        """No longer want a model for a while; one that is kept stays."""
        for key in list(self._store.list_keys(f"{self._prefix}{model}/{_UNTIL}")):
            self._store.delete_key(key)

    def kept(self, beginning: str = "") -> set[str]:
        """Kept models whose names begin so."""
        wishes = self._wishes(beginning)
        return {model for model, wish in wishes if wish == _KEEP}

    def wanted(self) -> set[str]:
        """All models that are wanted now."""
        # A bucket that is gone lists as empty; that is an outage, not the wish to unload everything.
        self._store.check()
        now = time.time()
        return {model for model, wish in self._wishes("") if wish == _KEEP or int(wish.removeprefix(_UNTIL)) > now}

    def _wishes(self, beginning: str) -> list[tuple[str, str]]:
        keys = self._store.list_keys(self._prefix + beginning)
        parts = [key.removeprefix(self._prefix).partition("/") for key in keys]
        return [(model, wish) for model, _, wish in parts if wish]
