"""``python -m bus.cli`` is ``palaver``."""

from bus.cli.main import main

main()
