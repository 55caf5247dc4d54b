"""How runs and texts share the time of the child. Pure: it is told how long what was done took."""


class Balance:
    """Says who works next where runs and texts both have work: whoever has had less of the time.

    So each gets about half of it. The texts wait for one slice of a run at most, or for as long as their own last
    pass took, should that have been longer; a run waits for as long as its last slice took, or one pass.
    """

    def __init__(self) -> None:
        self._ahead = 0.0  # seconds that the texts have had more than the runs

    @property
    def is_for_texts(self) -> bool:
        """Whether the texts work next."""
        return self._ahead <= 0

    def ran(self, seconds: float) -> None:
        """Note that runs have worked; what the texts may do for it never exceeds this one slice."""
        self._ahead = max(self._ahead - seconds, -seconds)

    def wrote(self, seconds: float) -> None:
        """Note that texts have been written."""
        self._ahead += seconds

    def clear(self) -> None:
        """Begin anew: one of the two had nothing to do."""
        self._ahead = 0.0
