"""What the tests of the partition's machines share: an object store and a ledger over it."""

from partition.ledger import Ledger
from partition.objects import Store
from partition.turn import TurnBuilder


class Kept:
    """A store with its turn; `reopen` is what a worker does when it loads the group again."""

    def __init__(self, store: Store | None = None) -> None:
        self.store = store or Store()
        self.turn = TurnBuilder()
        self.ledger = Ledger(self.store, self.turn)

    def reopen(self) -> "Kept":
        store = Store()
        store.load(list(self.store.images()))
        return Kept(store)
